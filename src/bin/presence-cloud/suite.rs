//! The phone systems that receive presence.

use std::time::Duration;

use anyhow::{anyhow, bail};
use clap::Subcommand;
use presence_bridge::clock::Clock;
use presence_bridge::cloud::admin::{self, DEFAULT_CODE_LIFE};
use presence_bridge::cloud::store::{Actor, Store};
use presence_bridge::config::cloud::CloudConfig;

use super::output::say;
use super::tenant::Which;

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
        /// Id of the suite.
        suite: uuid::Uuid,
    },
}

pub async fn suite(config: CloudConfig, command: Suite) -> anyhow::Result<()> {
    let store = Store::open(&config.database).await?;
    let clock = Clock::system();
    match command {
        Suite::Invite { which, hours } => {
            let tenants = store.tenants().await?;
            let tenant = admin::pick_tenant(&tenants, &which.tenant).map_err(|e| anyhow!(e))?;
            let invited = admin::invite_suite(
                &store,
                &clock,
                &Actor::of_this_account(),
                tenant.id,
                Duration::from_secs(hours * 3600),
            )
            .await?;
            let Some((code, until)) = invited else {
                bail!("{} was off-boarded", tenant.name)
            };
            say(&format!(
                "Enrolment code for one suite of {}, good until {until}:",
                tenant.name
            ));
            say(&format!("\n    {}\n", code.expose()));
            say("On the machine beside the suite:");
            say(&format!(
                "\n    presence-agent enroll --cloud {} --code-file -\n",
                config.grpc_public_url.as_str().trim_end_matches('/')
            ));
            say("and type the code.");
        }
        Suite::List { tenant } => {
            let tenants = store.tenants().await?;
            let only = match tenant {
                Some(wanted) => Some(
                    admin::pick_tenant(&tenants, &wanted)
                        .map_err(|e| anyhow!(e))?
                        .id,
                ),
                None => None,
            };
            for s in store.suites(only).await? {
                let status = if s.active { "active" } else { "revoked" };
                let of = tenants
                    .iter()
                    .find(|t| t.id == s.tenant)
                    .map_or("?", |t| t.name.as_str());
                say(&format!(
                    "{}  {status:<8} since {}  {} of {of}",
                    s.id, s.created_at, s.name
                ));
            }
        }
        Suite::Revoke { suite } => {
            let id = presence_bridge::model::SuiteId(suite);
            if !store
                .revoke_suite(id, &Actor::of_this_account(), clock.now())
                .await?
            {
                bail!("there is no suite {suite}; see: presence-cloud suite list");
            }
            say(&format!("Revoked {suite}. Its streams end within seconds."));
        }
    }
    Ok(())
}
