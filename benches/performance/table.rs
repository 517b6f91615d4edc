//! The table of ratios.

use std::fmt::Write as _;

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

/// As Markdown.
pub fn markdown(rows: &[Row]) -> String {
    let mut text = String::from(
        "| What | Reference | presence-bridge | Ratio | Goal | Met |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    for row in rows {
        let ratio = row.ratio.map_or("–".into(), |ratio| format!("{ratio:.2}×"));
        let met = if row.met { "yes" } else { "**no**" };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {ratio} | {} | {met} |",
            row.what, row.reference, row.ours, row.goal
        );
    }
    text
}
