//! The organisations whose presence is read.

pub mod show;

use std::io::{BufRead as _, IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand, ValueEnum};
use presence_bridge::clock::Clock;
use presence_bridge::cloud;
use presence_bridge::cloud::admin::{self, ConnectTenant, DEFAULT_MAX_WATCHED, NewCredential};
use presence_bridge::cloud::operations::filter::{ATTENTIONS, HEALTHS, TenantFilter};
use presence_bridge::cloud::operations::view::count;
use presence_bridge::cloud::store::{Actor, Store};
use presence_bridge::config::cloud::CloudConfig;
use presence_bridge::model::TenantId;
use presence_bridge::secret::{KeyRing, Secret, read_secret_file};

use serde_json::json;

use super::output::{chain, note, say, say_json, time};
use super::talk::{Ask, Intent, Talk};

#[derive(Subcommand)]
pub enum Tenant {
    /// Connects an organisation, or connects it anew.
    Add(AddTenant),
    /// Lists organisations: how their connection is, since when, and what to do.
    List {
        /// Only those whose connection is in this state, for example "needs administrator".
        #[arg(long, value_parser = PossibleValuesParser::new(HEALTHS))]
        health: Option<String>,
        /// Only those that need somebody so much: now, watch, soon, none, or resting.
        #[arg(long, value_parser = PossibleValuesParser::new(ATTENTIONS))]
        attention: Option<String>,
        /// Only those with this in their name, domain or id.
        #[arg(long)]
        search: Option<String>,
    },
    /// Shows everything about an organisation's connection.
    Show(Which),
    /// Stops reading an organisation's presence; its suites are told.
    #[command(alias = "suspend")]
    Pause(Which),
    /// Goes on after `pause`, and tries a refused connection again at once.
    Resume(Which),
    /// Tries the connection again at once, and reads everybody anew.
    Refresh(Which),
    /// Prints a secret link to an organisation's status page: for who lost his, and to authorize a connection anew.
    ///
    /// It works for exactly that organisation. Who has it sees the state of the connection, can add a phone system, and can begin to
    /// authorize anew, which needs a sign-in of that organisation. Earlier links stay good.
    #[command(alias = "link")]
    Relink {
        #[command(flatten)]
        which: Which,
        /// How long the link is good, in days.
        #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u64).range(1..=90))]
        days: u64,
        /// Send it to this address by mail instead of printing it.
        #[arg(long, value_name = "ADDRESS")]
        email: Option<String>,
    },
    /// Off-boards an organisation for good: destroys its credentials, revokes its suites, and prints a receipt.
    #[command(alias = "remove")]
    Offboard {
        #[command(flatten)]
        which: Which,
        /// The name of the organisation, exactly, to confirm. On a terminal it is asked for.
        #[arg(long, value_name = "NAME")]
        confirm: Option<String>,
        /// As before there was --confirm.
        #[arg(long, hide = true, conflicts_with = "confirm")]
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

/// Works on the database, beside a running service: it needs the credential of the application, which stays on this machine.
async fn add(config: &CloudConfig, ask: &Ask, add: AddTenant) -> anyhow::Result<()> {
    if ask.url.is_some() {
        bail!(
            "tenant add works on the machine of the service only; without --url, or by its pages"
        );
    }
    let store = Store::open(&config.database).await?;
    let (clock, by) = (Clock::system(), Actor::of_this_account());
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
    let entra = cloud::entra(config, cloud::transport(config)?, clock.clone())?;
    let request = ConnectTenant {
        tenant: add.tenant,
        name: add.name,
        credential,
        max_watched: add.max_watched,
        share_status_message: add.share_status_message,
        share_work_location: add.share_work_location,
        verify: !add.no_verify,
    };
    let connected = admin::connect_tenant(&store, &keys, &entra, &clock, &by, request).await;
    let (id, is_new) = connected.map_err(|e| match e.cause() {
        Some(cause) => anyhow!("{} {}\nDetails: {}", cause.text, cause.remedy, chain(&e)),
        None => anyhow!(e),
    })?;
    if ask.json {
        return say_json(&json!({ "tenant": id, "new": is_new }));
    }
    say(&format!(
        "{} tenant {id}.",
        if is_new {
            "Connected"
        } else {
            "Connected anew"
        }
    ));
    say(&format!("Next: presence-cloud suite invite {id}"));
    Ok(())
}

pub async fn tenant(config: &Path, ask: &Ask, command: Tenant) -> anyhow::Result<()> {
    if let Tenant::Add(new) = command {
        return add(&super::read(config)?, ask, new).await;
    }
    let intent = match command {
        Tenant::List { .. } | Tenant::Show(_) => Intent::Look,
        _ => Intent::Act,
    };
    let talk = Talk::open(config, ask, intent).await?;
    match command {
        Tenant::Add(_) => {}
        Tenant::List {
            health,
            attention,
            search,
        } => {
            let wanted = TenantFilter {
                health,
                attention,
                search,
            };
            let filtered =
                wanted.health.is_some() || wanted.attention.is_some() || wanted.search.is_some();
            let found = talk.tenants(&wanted).await?;
            if ask.json {
                return say_json(&found);
            }
            show::list(&found, filtered);
        }
        Tenant::Show(which) => {
            let (id, _) = talk.pick(&which.tenant).await?;
            let detail = talk.tenant(id).await?;
            if ask.json {
                return say_json(&detail);
            }
            show::one(&detail);
        }
        Tenant::Pause(which) => act(&talk, ask, "pause", &which, "Paused").await?,
        Tenant::Resume(which) => act(&talk, ask, "resume", &which, "Resumed").await?,
        Tenant::Refresh(which) => {
            act(&talk, ask, "refresh", &which, "Trying at once:").await?;
        }
        Tenant::Relink { which, days, email } => {
            let (id, name) = talk.pick(&which.tenant).await?;
            if let Some(to) = email {
                let done = talk.send_link(id, &to, days).await?;
                if ask.json {
                    return say_json(&done);
                }
                say(&format!(
                    "A link to the status page of {} was sent.",
                    done.name
                ));
                return Ok(());
            }
            let made = talk.link(id, &name, days).await?;
            if ask.json {
                return say_json(&made);
            }
            say(&format!(
                "Secret link to the status page of {}, good until {}:\n",
                made.name,
                time(made.until)
            ));
            say(&format!("    {}\n", made.url));
            say(
                "Who opens it can authorize the connection anew, with an account of that organisation.",
            );
        }
        Tenant::Offboard {
            which,
            confirm,
            yes,
        } => {
            let (id, name) = talk.pick(&which.tenant).await?;
            let confirm = match confirm {
                Some(typed) => typed,
                None if yes => name,
                None => ask_to_confirm(&talk, id, &name).await?,
            };
            let done = talk.offboard(id, &confirm).await?;
            if ask.json {
                return say_json(&done);
            }
            say(&done.text);
        }
    }
    Ok(())
}

async fn act(talk: &Talk, ask: &Ask, act: &str, which: &Which, done: &str) -> anyhow::Result<()> {
    let (id, _) = talk.pick(&which.tenant).await?;
    let outcome = talk.act(act, id).await?;
    if ask.json {
        return say_json(&outcome);
    }
    say(&format!("{done} {} ({id}).", outcome.name));
    Ok(())
}

/// The name, typed on a terminal. Elsewhere nobody can be asked.
async fn ask_to_confirm(talk: &Talk, id: TenantId, name: &str) -> anyhow::Result<String> {
    let suites = talk.suites(Some(id)).await?.suites;
    let suites = suites.iter().filter(|s| s.status == "active").count();
    let suites = count(u64::try_from(suites).unwrap_or(u64::MAX), "suite");
    let would = format!(
        "this would destroy the credentials of {name} ({id}) and revoke {suites} of it for good"
    );
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        bail!(
            "{would}; if that is meant, add --confirm with the name of the organisation (or --yes, as before)"
        );
    }
    note(&format!("presence-cloud: {would}."));
    note("Type the name of the organisation to do it:");
    let mut typed = String::new();
    stdin
        .lock()
        .take(4096)
        .read_line(&mut typed)
        .context("cannot read what was typed")?;
    Ok(typed.trim().to_owned())
}
