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

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [part, role, setup] = &arguments[..]
        && part == "--part"
    {
        return match role.as_str() {
            "product" => streams::product(serde_json::from_str(setup)?),
            "bare" => streams::bare(serde_json::from_str(setup)?),
            "reader" => reading::bare(serde_json::from_str(setup)?),
            "people" => people::product(serde_json::from_str(setup)?),
            "compact" => people::compact(serde_json::from_str(setup)?),
            other => anyhow::bail!("no part {other}"),
        };
    }
    let quick = arguments.iter().any(|a| a == "--test" || a == "--quick");
    let wanted = |name: &str| {
        let names: Vec<_> = arguments.iter().filter(|a| !a.starts_with("--")).collect();
        names.is_empty() || names.iter().any(|one| one.as_str() == name)
    };
    let runtime = tokio::runtime::Runtime::new()?;
    let mut rows = Vec::new();
    let say = |text: &str| writeln!(std::io::stderr(), "{text}");
    if wanted("reading") {
        say("reading …")?;
        let (tenants, seconds) = if quick { (2, 2) } else { (10, 10) };
        reading::reading(&runtime, tenants, seconds, &mut rows)?;
    }
    if wanted("delivery") {
        say("changes at presence rates …")?;
        delivery::at_presence_rates(&runtime, if quick { 1 } else { 10 }, &mut rows)?;
    }
    if wanted("full") {
        say("streams full …")?;
        delivery::full(&runtime, if quick { 1 } else { 5 }, &mut rows)?;
    }
    if wanted("last") {
        say("one change to a thousand streams …")?;
        delivery::one_to_a_thousand(&runtime, if quick { 2 } else { 40 }, &mut rows)?;
    }
    if wanted("idle") {
        say("idle streams …")?;
        delivery::idle_streams(&runtime, if quick { 50 } else { 1_000 }, &mut rows)?;
    }
    if wanted("age") {
        say("how old …")?;
        let (people, sweeps) = if quick { (200, 2) } else { (10_000, 5) };
        age::ages(
            &runtime,
            people,
            std::time::Duration::from_secs(if quick { 1 } else { 5 }),
            sweeps,
            &mut rows,
        )?;
    }
    if wanted("siege") {
        say("under attack …")?;
        siege::siege(&runtime, if quick { 1 } else { 5 }, &mut rows)?;
    }
    if wanted("people") {
        say("a million people …")?;
        people::memory(if quick { 20_000 } else { 1_000_000 }, &mut rows)?;
    }
    writeln!(std::io::stdout(), "{}", table::markdown(&rows))?;
    Ok(())
}
