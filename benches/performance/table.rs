//! The table of ratios.

use std::fmt::Write as _;

use anyhow::Context as _;

const NO_GOAL: &str = "–";

/// What was measured, beside its reference in the same run.
pub struct Row {
    pub what: String,
    pub reference: String,
    pub ours: String,
    /// Ours by theirs; `None` where there is nothing to divide.
    pub ratio: Option<f64>,
    pub goal: String,
    pub met: bool,
}

impl Row {
    /// A cost: at most so many times the reference.
    pub fn at_most(
        what: impl Into<String>,
        unit: &str,
        reference: f64,
        ours: f64,
        most: f64,
    ) -> Self {
        let ratio = ours / reference;
        Self {
            what: what.into(),
            reference: amount(reference, unit),
            ours: amount(ours, unit),
            ratio: Some(ratio),
            goal: format!("≤ {most}×"),
            met: ratio <= most,
        }
    }

    /// What nobody has promised: to compare others with.
    pub fn beside(what: impl Into<String>, unit: &str, reference: f64, ours: f64) -> Self {
        Self {
            goal: NO_GOAL.into(),
            ..Self::at_most(what, unit, reference, ours, f64::INFINITY)
        }
    }

    /// A yield: at least so many times the reference.
    pub fn at_least(
        what: impl Into<String>,
        unit: &str,
        reference: f64,
        ours: f64,
        least: f64,
    ) -> Self {
        let row = Self::at_most(what, unit, reference, ours, least);
        Self {
            goal: format!("≥ {least}×"),
            met: row.ratio.is_some_and(|ratio| ratio >= least),
            ..row
        }
    }
}

/// A number with three digits that count.
pub fn amount(value: f64, unit: &str) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$} {unit}").trim_end().to_owned()
}

/// As lines of a table in Markdown.
pub fn lines(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        let ratio = row.ratio.map_or("–".into(), |ratio| format!("{ratio:.2}×"));
        let met = match row.met {
            _ if row.goal == NO_GOAL => NO_GOAL,
            true => "yes",
            false => "**no**",
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {ratio} | {} | {met} |",
            row.what, row.reference, row.ours, row.goal
        );
    }
    text
}

/// The processor and memory of this machine, in words.
fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let after = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key));
        let value = line.and_then(|line| line.split_once(':'));
        value.map_or_else(String::new, |(_, value)| value.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = after(&read("/proc/meminfo"), "MemTotal");
    let kib: u64 = memory
        .split(' ')
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    format!(
        "{}, {cores} cores, {} GiB, Linux {}",
        after(&read("/proc/cpuinfo"), "model name"),
        kib >> 20,
        read("/proc/sys/kernel/osrelease").trim()
    )
}

/// What was measured, as far as git knows it.
fn commit() -> String {
    let git = std::process::Command::new("git")
        .args(["log", "-1", "--format=%h of %cs"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    let told = git.ok().filter(|git| git.status.success());
    let told = told.and_then(|git| String::from_utf8(git.stdout).ok());
    told.map_or_else(
        || "a tree without git".into(),
        |told| told.trim().to_owned(),
    )
}

/// Puts the table into `docs/performance.md`.
pub fn write_down(rows: &[Row]) -> anyhow::Result<()> {
    const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/performance.md");
    let page = std::fs::read_to_string(PAGE)?;
    let (begin, end) = ("<!-- measured: begin -->\n", "<!-- measured: end -->");
    let (before, rest) = page
        .split_once(begin)
        .context("no beginning of the table")?;
    let (_, after) = rest.split_once(end).context("no end of the table")?;
    let table = format!(
        "{begin}Machine: {}. Measured: {}.\n\n| What | Reference | presence-bridge | Ratio | Goal | Met |\n| --- | --- | --- | --- | --- | --- |\n{}{end}",
        machine(),
        commit(),
        lines(rows)
    );
    std::fs::write(PAGE, [before, &table, after].concat())?;
    Ok(())
}
