//! The live view of the demo.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Padding, Paragraph, Row, Table, Wrap};

use super::Demo;
use crate::agent::table::{age, lamp, words};
use crate::model::HealthState;

fn block(title: &str) -> Block<'_> {
    Block::bordered()
        .title(Line::from(format!(" {title} ")).bold())
        .padding(Padding::horizontal(1))
        .border_style(Style::new().dark_gray())
}

/// Lines of a table with so many rows, its titles and its frame.
fn length(rows: usize) -> u16 {
    u16::try_from(rows).unwrap_or(u16::MAX).saturating_add(3)
}

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, demo: &Demo) {
    let [head, tenants, suites, changes, hints] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(length(demo.tenants.len())),
        Constraint::Length(length(demo.players.len())),
        Constraint::Min(4),
        Constraint::Length(if frame.area().width < 165 { 10 } else { 8 }),
    ])
    .areas(frame.area());
    let title = vec![
        Line::from(vec![
            "presence-bridge".bold(),
            Span::from("  the whole product against a simulated Microsoft"),
            format!("  ·  {}", age(demo.started.elapsed())).dark_gray(),
        ]),
        Line::from("q quit").dark_gray(),
    ];
    frame.render_widget(Paragraph::new(title), head);
    draw_tenants(frame, tenants, demo);
    draw_suites(frame, suites, demo);
    draw_changes(frame, changes, demo);
    let lines: Vec<Line<'_>> = demo
        .hints()
        .into_iter()
        .map(|(title, command)| {
            Line::from(vec![format!("{title:<22}").dark_gray(), command.into()])
        })
        .collect();
    frame.render_widget(
        Paragraph::new(lines)
            .wrap(Wrap { trim: false })
            .block(block("Try it")),
        hints,
    );
}

fn draw_tenants(frame: &mut Frame<'_>, area: Rect, demo: &Demo) {
    let rows = demo.figures().into_iter().map(|(id, f)| {
        let color = match f.health.state {
            HealthState::Connected => Color::Green,
            HealthState::Pending => Color::DarkGray,
            _ => Color::Yellow,
        };
        let cause = f.health.cause.map(|cause| cause.text).unwrap_or_default();
        Row::new([
            Cell::new(demo.domain(id).to_owned()),
            Cell::new(Span::styled(
                f.health.state.as_str(),
                Style::new().fg(color),
            )),
            Cell::new(
                f.cadence
                    .map_or_else(|| "-".into(), |c| format!("every {}", age(c))),
            ),
            Cell::new(format!(
                "{} of {}",
                f.coverage.monitored, f.coverage.watched
            )),
            Cell::new(format!(
                "{} of {} in {}",
                f.requests_used,
                f.requests_allowed,
                age(f.window)
            )),
            Cell::new(cause),
        ])
    });
    let widths = [
        Constraint::Length(18),
        Constraint::Length(22),
        Constraint::Length(10),
        Constraint::Length(13),
        Constraint::Length(18),
        Constraint::Fill(1),
    ];
    let titles = Row::new([
        "Tenant",
        "Microsoft",
        "Read",
        "Monitored",
        "Requests",
        "Cause",
    ])
    .dark_gray();
    frame.render_widget(
        Table::new(rows, widths)
            .header(titles)
            .block(block("Cloud")),
        area,
    );
}

fn draw_suites(frame: &mut Frame<'_>, area: Rect, demo: &Demo) {
    let now = demo.clock.now();
    let rows = demo.players.iter().map(|player| {
        let view = player.handle.view();
        let counts = view.counts(now);
        let link = if view.is_connected() {
            "connected".green()
        } else {
            "reconnecting".yellow()
        };
        let why = view
            .people()
            .find_map(|p| {
                p.coverage
                    .as_ref()
                    .filter(|c| !c.detail.is_empty() && p.value.is_none())
                    .map(|c| format!("{}: {}", p.upn, c.detail))
            })
            .unwrap_or_default();
        Row::new([
            Cell::new(player.name.as_str()),
            Cell::new(link),
            Cell::new(format!("{} of {}", counts.fresh, counts.watched)),
            Cell::new(counts.stale.to_string()),
            Cell::new(player.changes.to_string()),
            Cell::new(format!("{} not covered  {why}", counts.uncovered)).dark_gray(),
        ])
    });
    let widths = [
        Constraint::Length(18),
        Constraint::Length(22),
        Constraint::Length(14),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Fill(1),
    ];
    let titles = Row::new(["Suite", "Cloud", "Fresh", "Stale", "Changes", "Coverage"]).dark_gray();
    frame.render_widget(
        Table::new(rows, widths)
            .header(titles)
            .block(block("Suites")),
        area,
    );
}

fn draw_changes(frame: &mut Frame<'_>, area: Rect, demo: &Demo) {
    let now = demo.clock.now();
    let rows = demo.recent.iter().map(|change| {
        let (sign, color) = lamp(&change.presence, true);
        Row::new([
            Cell::new(age(change.at.until(now))).dark_gray(),
            Cell::new(demo.players[change.suite].name.as_str()),
            Cell::new(Span::styled(sign, Style::new().fg(color))),
            Cell::new(change.upn.as_str()),
            Cell::new(words(&change.presence)),
            Cell::new(format!(
                "{} ms after it was read",
                change.changed_at.until(change.at).as_millis()
            ))
            .dark_gray(),
        ])
    });
    let widths = [
        Constraint::Length(6),
        Constraint::Length(12),
        Constraint::Length(2),
        Constraint::Fill(2),
        Constraint::Fill(2),
        Constraint::Length(24),
    ];
    frame.render_widget(
        Table::new(rows, widths).block(block("Who changed, and how long ago")),
        area,
    );
}
