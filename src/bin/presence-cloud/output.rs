//! How the commands speak.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use presence_bridge::cloud::admin::PickError;
use presence_bridge::cloud::operations::OperationError;
use presence_bridge::cloud::operators::span;
use presence_bridge::model::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use super::talk::{NobodyThere, Refused};

/// Tells why a command failed: to programs as a problem, as the admin API has it (RFC 9457), on a line of its own.
pub fn failed(error: &anyhow::Error, json: bool) -> ExitCode {
    if json {
        let _ = writeln!(std::io::stderr(), "{}", problem(error));
    } else {
        note(&format!("presence-cloud: {error:#}"));
    }
    ExitCode::FAILURE
}

fn problem(error: &anyhow::Error) -> Value {
    let told = format!("{error:#}");
    let of = |code: &str, title: &str, status: Option<u16>| {
        let mut body = json!({
            "type": format!("urn:presence-bridge:problem:{code}"),
            "code": code,
            "title": title,
            "detail": told,
        });
        if let Some(status) = status {
            body["status"] = status.into();
        }
        body
    };
    if let Some(Refused { problem, .. }) = error.downcast_ref() {
        return of(&problem.code, &problem.title, Some(problem.status));
    }
    if let Some(refused) = error.downcast_ref::<OperationError>() {
        let (status, code, title) = refused.in_a_word();
        return of(code, title, Some(status));
    }
    if let Some(unclear) = error.downcast_ref::<PickError>() {
        return match unclear {
            PickError::Several(_) => of("not-clear", "It is not clear which is meant", None),
            _ => of("no-such-tenant", "There is no such tenant", None),
        };
    }
    if error.is::<NobodyThere>() {
        return of("nobody-there", "No service answers", None);
    }
    of("failed", "It failed", None)
}

pub fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{}", plain(text));
}

/// For people only: what programs read stays clean.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", plain(text));
}

/// One value, for programs.
pub fn say_json(value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    let _ = writeln!(std::io::stdout(), "{text}");
    Ok(())
}

pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Names come from outside: none of them speaks to the terminal.
pub fn plain(text: &str) -> String {
    let shown = |c: char| {
        if c.is_control() && c != '\n' {
            '\u{fffd}'
        } else {
            c
        }
    };
    text.chars().map(shown).collect()
}

/// A time for people, to the minute.
pub fn time(at: Timestamp) -> String {
    let text = at.to_string();
    match (text.get(..10), text.get(11..16)) {
        (Some(date), Some(time)) => format!("{date} {time} UTC"),
        _ => text,
    }
}

/// How long ago.
pub fn ago(at: Option<Timestamp>, now: Timestamp) -> String {
    at.map(|at| span(at.until(now))).unwrap_or_default()
}

/// How many characters fit beside each other; `None`: as many as one likes.
fn width() -> Option<usize> {
    let told = std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok());
    told.or_else(|| {
        let terminal = std::io::stdout().is_terminal();
        let size = terminal.then(ratatui::crossterm::terminal::size);
        size.and_then(Result::ok).map(|(w, _)| usize::from(w))
    })
    .filter(|width| *width > 0)
}

/// A column: its title, on which side, and how early it goes when it gets narrow: 0 never does, and is shortened instead.
pub struct Column(pub &'static str, pub Side, pub u8);

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Left,
    Right,
}

/// Shortest that a shortened column becomes.
const SHORTEST: usize = 12;

/// Prints rows under their titles, as much of them as fits.
pub fn table(columns: &[Column], rows: &[Vec<String>]) {
    let _ = write!(std::io::stdout(), "{}", drawn(columns, rows, width()));
}

fn drawn(columns: &[Column], rows: &[Vec<String>], width: Option<usize>) -> String {
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            row.iter()
                .map(|cell| plain(cell).replace('\n', " "))
                .collect()
        })
        .collect();
    let length = |text: &str| text.chars().count();
    let mut widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(i, column)| {
            let cells = rows.iter().map(|row| length(&row[i]));
            cells.chain([length(column.0)]).max().unwrap_or(0)
        })
        .collect();
    let mut shown: Vec<usize> = (0..columns.len()).collect();
    // A column without a single value says nothing.
    shown.retain(|i| rows.is_empty() || rows.iter().any(|row| !row[*i].is_empty()));
    if let Some(width) = width {
        let total = |shown: &[usize], widths: &[usize]| -> usize {
            shown
                .iter()
                .map(|i| widths[*i] + 2)
                .sum::<usize>()
                .saturating_sub(2)
        };
        while total(&shown, &widths) > width {
            let first = shown.iter().copied().filter(|i| columns[*i].2 > 0);
            let Some(first) = first.max_by_key(|i| columns[*i].2) else {
                break;
            };
            shown.retain(|i| *i != first);
        }
        let over = total(&shown, &widths).saturating_sub(width);
        if let Some(widest) = shown.iter().copied().max_by_key(|i| widths[*i]) {
            widths[widest] = widths[widest].saturating_sub(over).max(SHORTEST);
        }
    }
    let mut text = String::new();
    let titles: Vec<String> = columns.iter().map(|c| c.0.to_owned()).collect();
    for row in std::iter::once(&titles).chain(&rows) {
        let cells: Vec<String> = shown
            .iter()
            .map(|i| {
                let (w, cell) = (widths[*i], &row[*i]);
                let cell = if length(cell) > w {
                    let cut: String = cell.chars().take(w - 1).collect();
                    format!("{cut}…")
                } else {
                    cell.clone()
                };
                match columns[*i].1 {
                    Side::Left => format!("{cell:<w$}"),
                    Side::Right => format!("{cell:>w$}"),
                }
            })
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] = [
        Column("NAME", Side::Left, 0),
        Column("SUITES", Side::Right, 1),
        Column("ID", Side::Left, 2),
    ];

    fn rows() -> Vec<Vec<String>> {
        let row = |name: &str, n: &str| vec![name.into(), n.into(), "0123456789".into()];
        vec![row("Contoso", "12"), row("A very long organisation", "3")]
    }

    #[test]
    fn numbers_stand_on_the_right_and_what_fits_is_shown() {
        assert_eq!(
            drawn(&COLUMNS, &rows(), None),
            "NAME                      SUITES  ID\n\
             Contoso                       12  0123456789\n\
             A very long organisation       3  0123456789\n"
        );
        assert_eq!(
            drawn(&COLUMNS, &rows(), Some(34)),
            "NAME                      SUITES\n\
             Contoso                       12\n\
             A very long organisation       3\n"
        );
        assert_eq!(
            drawn(&COLUMNS, &rows(), Some(14)),
            "NAME\nContoso\nA very long o…\n"
        );
    }

    #[test]
    fn a_name_does_not_speak_to_the_terminal() {
        let rows = vec![vec![
            "\u{1b}[2Jgone\nnext".into(),
            "1".into(),
            String::new(),
        ]];
        let text = drawn(&COLUMNS, &rows, None);
        assert!(text.ends_with("\u{fffd}[2Jgone next       1\n"), "{text}");
        assert!(!text.contains("ID"), "nothing stands under it");
    }
}
