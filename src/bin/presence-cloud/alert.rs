//! What is not as it should be.

use std::path::Path;

use anyhow::bail;
use clap::Subcommand;

use super::output::{Column, Side, ago, say, say_json, table};
use super::talk::{Ask, Intent, Talk};

#[derive(Subcommand)]
pub enum Alert {
    /// Lists the alerts that are open.
    List {
        /// Also those that are over.
        #[arg(long)]
        all: bool,
        /// Only those about an organisation: its name or id.
        #[arg(long)]
        tenant: Option<String>,
        /// How many at most.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=500))]
        limit: u32,
    },
    /// Sends a test message to everybody who is told about alerts.
    Test,
}

pub async fn alert(config: &Path, ask: &Ask, command: Alert) -> anyhow::Result<()> {
    let talk = Talk::open(config, ask, Intent::Look).await?;
    let Alert::List { all, tenant, limit } = command else {
        return test(&talk, ask).await;
    };
    let of = talk.pick_if(tenant.as_deref()).await?;
    let found = talk.alerts(of, !all, limit).await?;
    if ask.json {
        return say_json(&found);
    }
    if found.alerts.is_empty() {
        say(if all {
            "There was no alert."
        } else {
            "No alert is open."
        });
        return Ok(());
    }
    let rows: Vec<_> = found
        .alerts
        .iter()
        .map(|a| {
            vec![
                a.severity.clone(),
                ago(Some(a.raised_at), found.at),
                if a.closed_at.is_some() {
                    "over"
                } else {
                    "open"
                }
                .into(),
                a.tenant_name.clone().unwrap_or_default(),
                a.title.clone(),
            ]
        })
        .collect();
    table(
        &[
            Column("SEVERITY", Side::Left, 0),
            Column("RAISED AGO", Side::Right, 1),
            Column("STATE", Side::Left, 2),
            Column("ORGANISATION", Side::Left, 3),
            Column("ALERT", Side::Left, 0),
        ],
        &rows,
    );
    for alert in found.alerts.iter().filter(|a| a.closed_at.is_none()) {
        say(&format!("\n{}: {}", alert.title, alert.cause));
        if !alert.cure.is_empty() {
            say(&format!("  To do: {}", alert.cure));
        }
    }
    Ok(())
}

async fn test(talk: &Talk, ask: &Ask) -> anyhow::Result<()> {
    let tested = talk.test_alerts().await?;
    if ask.json {
        say_json(&tested)?;
    }
    let mut failed = 0;
    for one in &tested.receivers {
        failed += usize::from(one.problem.is_some());
        if !ask.json {
            let came = one.problem.as_deref().unwrap_or("the test has arrived");
            say(&format!("{}: {came}", one.receiver));
        }
    }
    if tested.receivers.is_empty() {
        bail!("nobody is told yet: add [[alerts.webhook]] or [[alerts.mail]] to the configuration");
    }
    if failed > 0 {
        bail!("{failed} of {} were not reached", tested.receivers.len());
    }
    Ok(())
}
