//! The organisations whose presence is read.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, Subcommand, ValueEnum};
use presence_bridge::clock::Clock;
use presence_bridge::cloud;
use presence_bridge::cloud::admin::{self, ConnectTenant, DEFAULT_MAX_WATCHED, NewCredential};
use presence_bridge::cloud::store::{Actor, Store, TenantStatus};
use presence_bridge::config::cloud::CloudConfig;
use presence_bridge::secret::{KeyRing, Secret, read_secret_file};

use super::output::{chain, say};

#[derive(Subcommand)]
pub enum Tenant {
    /// Connects an organisation, or connects it anew.
    Add(AddTenant),
    /// Lists all organisations.
    List,
    /// Stops reading an organisation's presence; its suites are told.
    Suspend(Which),
    /// Goes on after `suspend`, and tries a refused connection again at once.
    Resume(Which),
    /// Prints a secret link to an organisation's status page: for who lost his, and to authorize a connection anew.
    ///
    /// It works for exactly that organisation. Who has it sees the state of the connection, can add a phone system, and can begin to
    /// authorize anew, which needs a sign-in of that organisation. Earlier links stay good.
    Link {
        #[command(flatten)]
        which: Which,
        /// How long the link is good, in days.
        #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u64).range(1..=90))]
        days: u64,
    },
    /// Off-boards an organisation for good: destroys its credentials, revokes its suites, and prints a receipt.
    Remove {
        #[command(flatten)]
        which: Which,
        /// Do it; without this it is only said what would be done.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Args)]
pub struct Which {
    /// Name or id of the organisation.
    pub tenant: String,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Connection {
    /// An administrator has consented to the application; no account, no refresh token.
    Organisation,
    /// A service account has signed in; needs its refresh token.
    ServiceAccount,
}

#[derive(Args)]
pub struct AddTenant {
    /// Domain or id of the organisation's Microsoft tenant, for example contoso.com.
    tenant: String,
    /// Name for people. Default: the domain.
    #[arg(long, default_value = "", value_parser = short)]
    name: String,
    /// How the organisation is connected.
    #[arg(long, value_enum, default_value = "organisation")]
    connection: Connection,
    /// File with the service account's refresh token, readable by its owner only; "-" reads it from standard input.
    #[arg(long, value_name = "FILE")]
    refresh_token_file: Option<PathBuf>,
    /// Most people each suite may watch.
    #[arg(long, default_value_t = DEFAULT_MAX_WATCHED, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    max_watched: u32,
    /// Pass on status messages. Personal data: only if the organisation wants it.
    #[arg(long)]
    share_status_message: bool,
    /// Pass on work locations. Personal data: only if the organisation wants it.
    #[arg(long)]
    share_work_location: bool,
    /// Store it without trying the connection first.
    #[arg(long)]
    no_verify: bool,
}

/// A name for people.
fn short(text: &str) -> Result<String, String> {
    if text.chars().count() > 100 {
        return Err("at most 100 characters".into());
    }
    Ok(text.into())
}

fn refresh_token(file: Option<&Path>) -> anyhow::Result<Secret> {
    match file {
        None => {
            bail!("a service account needs --refresh-token-file (a file, or - for standard input)")
        }
        Some(path) if path == Path::new("-") => {
            let mut text = String::new();
            std::io::stdin()
                .take(64 << 10)
                .read_to_string(&mut text)
                .context("cannot read standard input")?;
            let text = text.trim();
            if text.is_empty() {
                bail!("there was no refresh token on standard input");
            }
            Ok(Secret::new(text))
        }
        Some(path) => Ok(read_secret_file(path)?),
    }
}

pub async fn tenant(config: CloudConfig, command: Tenant) -> anyhow::Result<()> {
    let store = Store::open(&config.database).await?;
    let (clock, by) = (Clock::system(), Actor::of_this_account());
    match command {
        Tenant::Add(add) => {
            let credential = match add.connection {
                Connection::Organisation if add.refresh_token_file.is_some() => {
                    bail!("--refresh-token-file belongs to --connection service-account")
                }
                Connection::Organisation => NewCredential::Organisation,
                Connection::ServiceAccount => {
                    NewCredential::ServiceAccount(refresh_token(add.refresh_token_file.as_deref())?)
                }
            };
            let keys = KeyRing::read(&config.key_file)?;
            let entra = cloud::entra(&config, cloud::transport(&config)?, clock.clone())?;
            let request = ConnectTenant {
                tenant: add.tenant,
                name: add.name,
                credential,
                max_watched: add.max_watched,
                share_status_message: add.share_status_message,
                share_work_location: add.share_work_location,
                verify: !add.no_verify,
            };
            let connected =
                admin::connect_tenant(&store, &keys, &entra, &clock, &by, request).await;
            let (id, is_new) = connected.map_err(|e| match e.cause() {
                Some(cause) => anyhow!("{} {}\nDetails: {}", cause.text, cause.remedy, chain(&e)),
                None => anyhow!(e),
            })?;
            say(&format!(
                "{} tenant {id}.",
                if is_new {
                    "Connected"
                } else {
                    "Connected anew"
                }
            ));
            say(&format!("Next: presence-cloud suite invite {id}"));
        }
        Tenant::List => {
            for t in store.tenants().await? {
                let suites = store
                    .suites(Some(t.id))
                    .await?
                    .iter()
                    .filter(|s| s.active)
                    .count();
                say(&format!(
                    "{}  {:<10} {:<16} {suites:>3} suites  {}",
                    t.id,
                    t.status.as_str(),
                    t.connection.as_str(),
                    t.name
                ));
            }
        }
        Tenant::Suspend(which) => {
            set_status(&store, &which, TenantStatus::Suspended, "Suspended").await?;
        }
        Tenant::Resume(which) => {
            set_status(&store, &which, TenantStatus::Active, "Resumed").await?;
        }
        Tenant::Link { which, days } => {
            let Some(web) = &config.web else {
                bail!("there are no pages to link to: set [web] listen in the configuration")
            };
            let tenants = store.tenants().await?;
            let tenant = admin::pick_tenant(&tenants, &which.tenant).map_err(|e| anyhow!(e))?;
            let valid_for = Duration::from_hours(days * 24);
            let link = admin::link_to_status(&store, &clock, &by, tenant.id, valid_for).await?;
            let Some((path, until)) = link else {
                bail!("{} was off-boarded", tenant.name)
            };
            say(&format!(
                "Secret link to the status page of {}, good until {until}:\n",
                tenant.name
            ));
            say(&format!(
                "    {}{}\n",
                web.public_url.origin().ascii_serialization(),
                path.expose()
            ));
            say(
                "Who opens it can authorize the connection anew, with an account of that organisation.",
            );
        }
        Tenant::Remove { which, yes: false } => {
            let tenants = store.tenants().await?;
            let tenant = admin::pick_tenant(&tenants, &which.tenant).map_err(|e| anyhow!(e))?;
            let suites = store
                .suites(Some(tenant.id))
                .await?
                .iter()
                .filter(|s| s.active)
                .count();
            bail!(
                "this would destroy the credentials of {} ({}) and revoke its {suites} suites for good; if that is meant, add --yes",
                tenant.name,
                tenant.id
            );
        }
        Tenant::Remove { which, yes: true } => {
            let tenants = store.tenants().await?;
            let tenant = admin::pick_tenant(&tenants, &which.tenant).map_err(|e| anyhow!(e))?;
            let receipt = admin::offboard(&store, &clock, &by, tenant.id).await?;
            let receipt =
                receipt.with_context(|| format!("{} is not there any more", tenant.name))?;
            say(&receipt.to_string());
        }
    }
    Ok(())
}

async fn set_status(
    store: &Store,
    which: &Which,
    status: TenantStatus,
    done: &str,
) -> anyhow::Result<()> {
    let tenants = store.tenants().await?;
    let tenant = admin::pick_tenant(&tenants, &which.tenant).map_err(|e| anyhow!(e))?;
    if tenant.status == TenantStatus::Gone && status != TenantStatus::Gone {
        bail!(
            "{} was off-boarded and has no credentials; connect it anew: presence-cloud tenant add",
            tenant.name
        );
    }
    store
        .set_tenant_status(
            tenant.id,
            status,
            &Actor::of_this_account(),
            Clock::system().now(),
        )
        .await?;
    say(&format!("{done} {} ({}).", tenant.name, tenant.id));
    Ok(())
}
