//! The live table in a terminal. Drawing is a pure function of what is known; [`Screen`] owns the terminal and gives it back.

use std::io::IsTerminal as _;
use std::time::Duration;

use ratatui::Frame;
use ratatui::crossterm::event::{self, Event as Input, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table, Wrap};

use super::json::coverage_word;
use super::view::{Person, View};
use crate::model::{Activity, Availability, CoverageState, Presence, Timestamp};

/// A span for people: `4 s`, `3 min`, `2 h`.
pub fn age(span: Duration) -> String {
    match span.as_secs() {
        secs @ 0..=119 => format!("{secs} s"),
        secs @ 120..=7199 => format!("{} min", secs / 60),
        secs => format!("{} h", secs / 3600),
    }
}

/// A presence in a few words.
pub fn words(presence: &Presence) -> String {
    let base = match &presence.availability {
        Availability::Available => "Available",
        Availability::AvailableIdle => "Available, idle",
        Availability::Away => "Away",
        Availability::BeRightBack => "Be right back",
        Availability::Busy => "Busy",
        Availability::BusyIdle => "Busy, idle",
        Availability::DoNotDisturb => "Do not disturb",
        Availability::Offline => "Offline",
        Availability::PresenceUnknown => "Unknown",
        Availability::Other(text) => text,
    };
    let more = match &presence.activity {
        Activity::InACall => "in a call",
        Activity::InAConferenceCall => "in a conference call",
        Activity::InAMeeting => "in a meeting",
        Activity::Presenting => "presenting",
        Activity::Focusing => "focusing",
        Activity::UrgentInterruptionsOnly => "urgent interruptions only",
        Activity::OffWork => "off work",
        Activity::OutOfOffice => "out of office",
        Activity::Other(text) => text,
        _ => "",
    };
    let away = presence.out_of_office == Some(true) && presence.activity != Activity::OutOfOffice;
    let mut text = base.to_owned();
    for part in [more, if away { "out of office" } else { "" }] {
        if !part.is_empty() {
            text = format!("{text}, {part}");
        }
    }
    text
}

/// The lamp of a presence: a sign that can be told apart without colour, and its colour.
pub fn lamp(presence: &Presence, fresh: bool) -> (&'static str, Color) {
    let (sign, color) = match presence.availability {
        Availability::Available => ("●", Color::Green),
        Availability::AvailableIdle => ("◐", Color::Green),
        Availability::Busy => ("●", Color::Red),
        Availability::BusyIdle => ("◐", Color::Red),
        Availability::DoNotDisturb => ("⊖", Color::Red),
        Availability::Away | Availability::BeRightBack => ("◔", Color::Yellow),
        Availability::Offline => ("○", Color::DarkGray),
        Availability::PresenceUnknown | Availability::Other(_) => ("?", Color::DarkGray),
    };
    if fresh {
        (sign, color)
    } else {
        (sign, Color::DarkGray)
    }
}

fn row<'a>(view: &View, person: &'a Person, now: Timestamp) -> Row<'a> {
    let uncovered = person
        .coverage
        .as_ref()
        .filter(|c| c.state != Some(CoverageState::Monitored));
    let Some(value) = &person.value else {
        let state = uncovered.map_or("resolving", |c| coverage_word(c.state));
        return Row::new([
            Cell::new("·"),
            Cell::new(person.upn.as_str()),
            Cell::new(state),
        ])
        .style(Style::new().dark_gray());
    };
    let fresh = view.is_fresh(person, now);
    let (sign, color) = lamp(&value.presence, fresh);
    let confirmed = match view.age(person, now) {
        Some(span) if fresh => age(span),
        Some(span) => format!("STALE {}", age(span)),
        None => "STALE".into(),
    };
    let text = words(&value.presence);
    let since = age(value.changed_at.until(now));
    let row = Row::new([
        Cell::new(Span::styled(sign, Style::new().fg(color))),
        Cell::new(person.upn.as_str()),
        Cell::new(text),
        Cell::new(since),
        Cell::new(confirmed),
    ]);
    if fresh {
        row
    } else {
        row.style(Style::new().dark_gray())
    }
}

/// The line that says how well the tenant is covered.
pub fn coverage_line(view: &View, now: Timestamp) -> String {
    let counts = view.counts(now);
    let covered = counts.fresh + counts.stale;
    let mut text = format!("{covered} of {} covered", counts.watched);
    for (number, what) in [
        (counts.stale, "stale"),
        (counts.resolving, "being looked up"),
        (counts.uncovered, "not covered"),
    ] {
        if number > 0 {
            text = format!("{text}, {number} {what}");
        }
    }
    text
}

/// Draws everything that is known, from the person at `offset` on.
pub fn draw(
    frame: &mut Frame<'_>,
    view: &View,
    cloud: &str,
    note: &str,
    offset: usize,
    now: Timestamp,
) {
    let problems: Vec<&Person> = view
        .people()
        .filter(|p| {
            p.coverage.as_ref().is_some_and(|c| {
                !matches!(
                    c.state,
                    Some(CoverageState::Monitored | CoverageState::Resolving)
                )
            })
        })
        .collect();
    let shown = u16::try_from(problems.len().min(5)).unwrap_or(5);
    // A cause with its remedy takes more room than "connected".
    let well = view.tenant().is_none_or(|tenant| tenant.connected);
    let head_height = if well && view.is_connected() { 4 } else { 7 };
    let [head, table, why, foot] = Layout::vertical([
        Constraint::Length(head_height),
        Constraint::Min(3),
        Constraint::Length(if shown > 0 { shown * 2 + 1 } else { 0 }),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    draw_head(frame, head, view, cloud, note, now);
    let rows = view
        .people()
        .skip(offset)
        .take(usize::from(table.height))
        .map(|p| row(view, p, now));
    let widths = [
        Constraint::Length(2),
        Constraint::Fill(3),
        Constraint::Fill(3),
        Constraint::Length(9),
        Constraint::Length(14),
    ];
    let titles = Row::new(["", "Who", "Presence", "Since", "Confirmed"]).bold();
    frame.render_widget(Table::new(rows, widths).header(titles), table);
    let mut lines = vec![Line::from("Not covered, and why").bold()];
    for person in problems.iter().take(usize::from(shown)) {
        let detail = person.coverage.as_ref().map_or("", |c| c.detail.as_str());
        lines.push(Line::from(format!("{}: {detail}", person.upn)));
    }
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: true }), why);
    frame.render_widget(
        Line::from("q quit · arrows and page keys scroll").dark_gray(),
        foot,
    );
}

fn draw_head(
    frame: &mut Frame<'_>,
    area: Rect,
    view: &View,
    cloud: &str,
    note: &str,
    now: Timestamp,
) {
    let link = if view.is_connected() {
        Span::from("connected").green()
    } else {
        Span::from(if note.is_empty() {
            "connecting".to_owned()
        } else {
            note.to_owned()
        })
        .yellow()
    };
    let mut lines = vec![Line::from(vec![
        Span::from(format!("{cloud}  ")).bold(),
        link,
    ])];
    lines.push(match view.tenant() {
        None => Line::from("Microsoft: not told yet").dark_gray(),
        // What was told is of the past: nothing of it is said as if it were now.
        Some(t) if !view.is_connected() => Line::from(format!(
            "Microsoft: unknown just now; last told: {}",
            t.state
        ))
        .yellow(),
        Some(t) if t.connected => Line::from(format!(
            "Microsoft: connected, everybody is read every {}",
            t.cadence.map_or_else(|| "…".into(), age)
        )),
        Some(t) => Line::from(format!(
            "Microsoft: {}. {} {} {}",
            t.state, t.cause, t.remedy, t.code
        ))
        .yellow(),
    });
    lines.push(Line::from(coverage_line(view, now)));
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: true }), area);
}

/// What the person at the keyboard wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// To end.
    Quit,
    /// To see others; the first one shown.
    Offset(usize),
}

/// A terminal that is drawn on; given back when dropped, and by ratatui's hook when something panics.
pub struct Screen {
    terminal: ratatui::DefaultTerminal,
}

impl Screen {
    /// Takes over the terminal, if standard output is one and colours and movement are wanted.
    pub fn open() -> Option<Self> {
        if !std::io::stdout().is_terminal() || std::env::var_os("TERM").is_some_and(|t| t == "dumb")
        {
            return None;
        }
        ratatui::try_init().ok().map(|terminal| Self { terminal })
    }

    /// Draws one picture.
    pub fn draw(&mut self, picture: impl FnOnce(&mut Frame<'_>)) -> std::io::Result<()> {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        self.terminal.draw(|frame| {
            picture(frame);
            if plain {
                for cell in &mut frame.buffer_mut().content {
                    cell.set_fg(Color::Reset).set_bg(Color::Reset);
                }
            }
        })?;
        Ok(())
    }

    /// What was typed since the last call.
    pub fn wish(offset: usize, people: usize) -> Option<Wish> {
        let mut wish = None;
        while event::poll(Duration::ZERO).unwrap_or(false) {
            let Ok(Input::Key(key)) = event::read() else {
                continue;
            };
            if key.kind != KeyEventKind::Press {
                continue;
            }
            let at = match wish {
                Some(Wish::Offset(at)) => at,
                _ => offset,
            };
            let last = people.saturating_sub(1);
            wish = match key.code {
                KeyCode::Char('q') | KeyCode::Esc => return Some(Wish::Quit),
                KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                    return Some(Wish::Quit);
                }
                KeyCode::Down | KeyCode::Char('j') => Some(Wish::Offset((at + 1).min(last))),
                KeyCode::Up | KeyCode::Char('k') => Some(Wish::Offset(at.saturating_sub(1))),
                KeyCode::PageDown | KeyCode::Char(' ') => Some(Wish::Offset((at + 20).min(last))),
                KeyCode::PageUp => Some(Wish::Offset(at.saturating_sub(20))),
                KeyCode::Home => Some(Wish::Offset(0)),
                KeyCode::End => Some(Wish::Offset(last)),
                _ => wish,
            };
        }
        wish
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::model::Sequence;
    use crate::wire::{self, v1};
    use v1::watch_response::Response;

    fn picture(view: &View, now: Timestamp) -> String {
        let mut terminal = Terminal::new(TestBackend::new(100, 16)).unwrap();
        terminal
            .draw(|frame| draw(frame, view, "https://cloud.example", "", 0, now))
            .unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn the_table_says_who_is_free_how_old_that_is_and_why_not() {
        let (now, mut view) = (Timestamp::from_secs(100), View::default());
        view.set_watched(&["ann@x.com".into(), "nobody@x.com".into()]);
        let status = v1::TenantStatus {
            state: v1::TenantState::Connected as i32,
            cadence: Some(wire::duration(Duration::from_secs(5))),
            ..v1::TenantStatus::default()
        };
        let mut presence = Presence::from_microsoft(Some("Busy"), Some("InACall"));
        presence.out_of_office = Some(true);
        let at = Timestamp::from_secs;
        view.apply(Response::Opened(v1::Opened::default()), now);
        view.apply(Response::TenantStatus(status), now);
        view.apply(
            Response::Presences(v1::Presences {
                presences: vec![wire::presence(
                    "ann@x.com",
                    &presence,
                    Sequence(1),
                    at(98),
                    at(40),
                )],
                ..v1::Presences::default()
            }),
            now,
        );
        view.apply(
            Response::Coverage(v1::Coverage {
                people: vec![wire::person_coverage(
                    "nobody@x.com",
                    CoverageState::NotFound,
                    at(1),
                )],
            }),
            now,
        );
        assert!(picture(&view, now).contains("STALE"), "no heartbeat yet");
        view.apply(
            Response::Heartbeat(v1::Heartbeat {
                confirmed_as_of: Some(wire::timestamp(at(98))),
                sent_at: Some(wire::timestamp(at(100))),
                ..v1::Heartbeat::default()
            }),
            now,
        );
        let text = picture(&view, now);
        for part in [
            "connected, everybody is read every 5 s",
            "1 of 2 covered, 1 not covered",
            "Busy, in a call, out of office",
            "60 s",
            "2 s",
            "not found",
            "nobody@x.com: This organisation has no such person.",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert!(!text.contains("STALE"));
        view.disconnected();
        let text = picture(&view, now);
        assert!(text.contains("STALE"));
        assert!(
            text.contains("unknown just now; last told: connected"),
            "{text}"
        );
    }
}
