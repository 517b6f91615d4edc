//! `make bench`: what the product costs, beside what is physically possible, in one run. `docs/performance.md` explains the table.
//!
//! Everything on loopback, bounded in count and time; servers are processes of their own, so that the system tells what they cost.

mod age;
#[path = "../../tests/it/support/attacks.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "it is the tests' own")]
mod attacks;
mod clients;
mod delivery;
#[path = "../../tests/it/support/frames.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "it is the tests' own")]
mod frames;
mod people;
mod process;
mod reading;
mod siege;
mod streams;
mod table;

use std::io::Write as _;
use std::time::Duration;

use tokio::runtime::Runtime;

use table::Row;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [part, role] = &arguments[..]
        && part == "--part"
    {
        return match role.as_str() {
            "product" => streams::product(process::setup()?),
            "bare" => streams::bare(process::setup()?),
            "reader" => reading::bare(process::setup()?),
            "people" => people::product(process::setup()?),
            "compact" => people::compact(process::setup()?),
            other => anyhow::bail!("no part {other}"),
        };
    }
    let quick = arguments.iter().any(|a| a == "--test" || a == "--quick");
    let names: Vec<&String> = arguments.iter().filter(|a| !a.starts_with("--")).collect();
    let runtime = Runtime::new()?;
    let mut out = std::io::stdout();
    let mut rows = Vec::new();
    for (name, what, measure) in SECTIONS {
        if !names.is_empty() && !names.iter().any(|wanted| wanted == name) {
            continue;
        }
        writeln!(std::io::stderr(), "{what} …")?;
        let before = rows.len();
        measure(&runtime, quick, &mut rows)?;
        // What has been measured is not lost when something fails later.
        write!(out, "{}", table::lines(&rows[before..]))?;
        out.flush()?;
    }
    if arguments.iter().any(|a| a == "--write") {
        anyhow::ensure!(
            names.is_empty() && !quick,
            "only a whole run is written down"
        );
        table::write_down(&rows)?;
    }
    Ok(())
}

type Measure = fn(&Runtime, bool, &mut Vec<Row>) -> anyhow::Result<()>;

/// What is measured, in this order; all of it in a few minutes.
const SECTIONS: &[(&str, &str, Measure)] = &[
    ("reading", "reading Microsoft", |runtime, quick, rows| {
        let (tenants, seconds) = if quick { (2, 2) } else { (10, 10) };
        reading::reading(runtime, tenants, seconds, rows)
    }),
    (
        "delivery",
        "changes at presence rates",
        |runtime, quick, rows| {
            delivery::at_presence_rates(runtime, if quick { 1 } else { 10 }, rows)
        },
    ),
    ("full", "streams full", |runtime, quick, rows| {
        delivery::full(runtime, if quick { 1 } else { 5 }, rows)
    }),
    (
        "last",
        "one change to a thousand streams",
        |runtime, quick, rows| {
            delivery::one_to_a_thousand(runtime, if quick { 2 } else { 40 }, rows)
        },
    ),
    ("age", "how old values are", |runtime, quick, rows| {
        let (people, sweeps) = if quick { (200, 2) } else { (10_000, 5) };
        let interval = Duration::from_secs(if quick { 1 } else { 5 });
        age::ages(runtime, people, interval, sweeps, rows)
    }),
    ("people", "a million people", |_, quick, rows| {
        people::memory(if quick { 20_000 } else { 1_000_000 }, rows)
    }),
    ("idle", "idle streams", |runtime, quick, rows| {
        delivery::idle_streams(runtime, if quick { 50 } else { 1_000 }, rows)
    }),
    ("siege", "under attack", |runtime, quick, rows| {
        siege::siege(runtime, if quick { 1 } else { 5 }, rows)
    }),
];
