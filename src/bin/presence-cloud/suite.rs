//! The phone systems that receive presence.

use std::path::Path;

use anyhow::bail;
use clap::Subcommand;
use presence_bridge::cloud::admin::DEFAULT_CODE_LIFE;
use presence_bridge::model::SuiteId;

use super::output::{say, say_json, time};
use super::talk::{Ask, Intent, Talk};
use super::tenant::{Which, show};

#[derive(Subcommand)]
pub enum Suite {
    /// Prints a one-time enrolment code for a suite of an organisation.
    Invite {
        #[command(flatten)]
        which: Which,
        /// How long the code is good, in hours.
        #[arg(long, default_value_t = DEFAULT_CODE_LIFE.as_secs() / 3600, value_parser = clap::value_parser!(u64).range(1..=720))]
        hours: u64,
    },
    /// Lists the suites, of one organisation or all.
    List {
        /// Name or id of the organisation.
        tenant: Option<String>,
    },
    /// Revokes a suite: its streams end within seconds, and it must be enrolled anew.
    Revoke {
        /// Id of the suite; or its name, if no other suite has it.
        suite: String,
    },
}

/// The suite that is meant. By name only the whole one: it is revoked for good.
async fn which(talk: &Talk, wanted: &str) -> anyhow::Result<SuiteId> {
    if let Ok(id) = wanted.parse() {
        return Ok(SuiteId(id));
    }
    let mut suites = talk.suites(None).await?.suites;
    suites.retain(|s| s.status == "active" && s.name.to_lowercase() == wanted.to_lowercase());
    match suites.as_slice() {
        [one] => Ok(one.id),
        [] => {
            bail!("no suite that is enrolled has that id or name; see: presence-cloud suite list")
        }
        many => bail!(
            "{} suites have that name; give the id, see: presence-cloud suite list",
            many.len()
        ),
    }
}

pub async fn suite(config: &Path, ask: &Ask, command: Suite) -> anyhow::Result<()> {
    let intent = match command {
        Suite::List { .. } => Intent::Look,
        Suite::Invite { .. } | Suite::Revoke { .. } => Intent::Act,
    };
    let talk = Talk::open(config, ask, intent).await?;
    match command {
        Suite::Invite { which, hours } => {
            let (id, name) = talk.pick(&which.tenant).await?;
            let made = talk.invite(id, &name, hours).await?;
            if ask.json {
                return say_json(&made);
            }
            say(&format!(
                "Enrolment code for one suite of {}, good until {}:",
                made.name,
                time(made.until)
            ));
            say(&format!("\n    {}\n", made.code));
            say("On the machine beside the suite:");
            say(&format!("\n    {}\n", made.command));
            say("and type the code.");
        }
        Suite::List { tenant } => {
            let of = talk.pick_if(tenant.as_deref()).await?;
            let found = talk.suites(of).await?;
            if ask.json {
                return say_json(&found);
            }
            if found.suites.is_empty() {
                say("No suite is enrolled yet. Invite one: presence-cloud suite invite");
                return Ok(());
            }
            show::of_suites(&found.suites, found.at, of.is_none());
        }
        Suite::Revoke { suite } => {
            let id = which(&talk, &suite).await?;
            let done = talk.revoke(id).await?;
            if ask.json {
                return say_json(&done);
            }
            say(&format!(
                "Revoked {} of {} ({id}). Its streams end within seconds.",
                done.name, done.tenant_name
            ));
        }
    }
    Ok(())
}
