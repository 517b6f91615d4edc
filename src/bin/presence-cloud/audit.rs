//! Who did what, and when.

use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use clap::Args;
use presence_bridge::cloud::operations::filter::TenantFilter;

use super::output::{note, say, say_json};
use super::talk::{Ask, Intent, Talk};
use super::tenant::show;

#[derive(Args)]
pub struct Entries {
    /// Writes everything to standard output, an entry a line as JSON. That it was exported is entered as well.
    #[arg(long, conflicts_with_all = ["before", "limit", "json"])]
    export: bool,
    /// Only what concerns an organisation: its name or id.
    #[arg(long)]
    tenant: Option<String>,
    /// Only entries before the one of this number.
    #[arg(long)]
    before: Option<i64>,
    /// How many at most.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,
}

pub async fn audit(config: &Path, ask: &Ask, wanted: Entries) -> anyhow::Result<()> {
    let talk = Talk::open(config, ask, Intent::Look).await?;
    let of = talk.pick_if(wanted.tenant.as_deref()).await?;
    if wanted.export {
        let text = talk.export(of).await?;
        return std::io::stdout()
            .write_all(text.as_bytes())
            .context("cannot write to standard output");
    }
    let found = talk.audit(of, wanted.before, wanted.limit).await?;
    if ask.json {
        return say_json(&found);
    }
    if found.entries.is_empty() {
        say("There is no such entry.");
        return Ok(());
    }
    let tenants = talk.tenants(&TenantFilter::default()).await?.tenants;
    let names = tenants.into_iter().map(|t| (t.id, t.name)).collect();
    show::of_audit(&found.entries, Some(&names));
    if let Some(before) = found.next {
        note(&format!("Older ones: --before {before}"));
    }
    Ok(())
}
