//! presence-cloud: the multi-tenant service.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use presence_bridge::clock::Clock;
use presence_bridge::cloud::admin::{
    self, ConnectTenant, DEFAULT_CODE_LIFE, DEFAULT_MAX_WATCHED, NewCredential,
};
use presence_bridge::cloud::operators::password;
use presence_bridge::cloud::store::{
    Action, Actor, ConnectionKind, Deed, Store, TenantRow, TenantStatus,
};
use presence_bridge::cloud::{self, Cloud, Parts, backup, keys};
use presence_bridge::config::cloud::{CloudConfig, TlsFiles};
use presence_bridge::microsoft::{Ending, Entra, MicrosoftError};
use presence_bridge::secret::{KeyRing, Secret, read_secret_file};
use presence_bridge::telemetry;
use tokio_util::sync::CancellationToken;

/// Reads Microsoft Teams presence for many tenants and streams it to their phone systems.
#[derive(Parser)]
#[command(
    version,
    about,
    after_help = "Start with `presence-cloud keys create`, then `check`, `tenant add`, `suite invite` and `serve`."
)]
struct Cli {
    /// The configuration file.
    #[arg(
        long,
        short,
        global = true,
        env = "PRESENCE_CLOUD_CONFIG",
        default_value = "/etc/presence-cloud/cloud.toml"
    )]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves suites until interrupted.
    Serve,
    /// Says what is wrong with the configuration, the files it names, and the way to Microsoft.
    Check {
        /// Only the files of this machine; Microsoft is not asked.
        #[arg(long)]
        offline: bool,
    },
    /// The key that seals all credentials: make it, replace it.
    #[command(subcommand)]
    Keys(Keys),
    /// Tenants: the organisations whose presence is read.
    #[command(subcommand)]
    Tenant(Tenant),
    /// Suites: the phone systems that receive presence.
    #[command(subcommand)]
    Suite(Suite),
    /// Operators: who signs in to their pages.
    #[command(subcommand)]
    Operators(Operators),
    /// Writes a backup of the database; the server may go on serving. The key file is not in it.
    Backup {
        /// The file to write, or a folder, where the file is named by the time. Nothing is overwritten.
        #[arg(value_name = "FILE|DIR")]
        target: PathBuf,
    },
    /// Makes a backup the database of this machine, which must not have one. Needs the key file that belongs to the backup.
    Restore {
        /// The backup.
        file: PathBuf,
    },
}

#[derive(Subcommand)]
enum Operators {
    /// Reads a password from standard input, twice where somebody types it, and writes its hash to the file the configuration names.
    Password {
        /// Put it in the place of the one there is. All operators have to sign in again.
        #[arg(long)]
        replace: bool,
    },
}

#[derive(Subcommand)]
enum Keys {
    /// Makes the key that seals all credentials, in the file the configuration names. Never overwrites one.
    Create,
    /// Shows the ids of the keys in the file, and how many tenants' data keys each of them wraps. Never a key.
    List,
    /// Makes a new key, puts it first in the file, and wraps every tenant's data key with it. The server may go on serving. Should it
    /// be interrupted, do it again. The earlier key stays in the file until `retire`.
    Rotate,
    /// Removes the earlier keys from the file, once no data key is wrapped by them any more. Backups from before need them: keep a
    /// copy as long as you keep those.
    Retire,
}

#[derive(Subcommand)]
enum Tenant {
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
struct Which {
    /// Name or id of the organisation.
    tenant: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum Connection {
    /// An administrator has consented to the application; no account, no refresh token.
    Organisation,
    /// A service account has signed in; needs its refresh token.
    ServiceAccount,
}

#[derive(Args)]
struct AddTenant {
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

#[derive(Subcommand)]
enum Suite {
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

/// A name for people.
fn short(text: &str) -> Result<String, String> {
    if text.chars().count() > 100 {
        return Err("at most 100 characters".into());
    }
    Ok(text.into())
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => return failed(&anyhow!(e)),
    };
    match runtime.block_on(run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => failed(&e),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "presence-cloud: {error:#}");
    ExitCode::FAILURE
}

fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let config = CloudConfig::read(&cli.config).map_err(|e| anyhow!("{e}"))?;
    match cli.command {
        Command::Serve => serve(config).await,
        Command::Check { offline } => check(&cli.config, config, offline).await,
        Command::Keys(command) => keys(&config, &command).await,
        Command::Tenant(command) => tenant(config, command).await,
        Command::Suite(command) => suite(config, command).await,
        Command::Operators(Operators::Password { replace }) => operators_password(&config, replace),
        Command::Backup { target } => {
            let (clock, by) = (Clock::system(), Actor::of_this_account());
            let (database, key_file) = (&config.database, &config.key_file);
            say(&backup::backup(database, key_file, &clock, &by, &target)
                .await?
                .to_string());
            Ok(())
        }
        Command::Restore { file } => restore(&config, &file).await,
    }
}

fn operators_password(config: &CloudConfig, replace: bool) -> anyhow::Result<()> {
    let Some(file) = &config.operators.password_file else {
        bail!("say where: set password_file under [operators] in the configuration")
    };
    if file.exists() && !replace {
        bail!(
            "{} is there already; --replace makes a new password and ends all sessions",
            file.display()
        );
    }
    let asked = password::ask().context("cannot read the password")?;
    let typed =
        asked.context("the two are not the same, or it was given up; nothing was written")?;
    password::create(file, &typed, replace)?;
    say(&format!(
        "Wrote {}. Operators sign in at {}",
        file.display(),
        config.operators.public_url
    ));
    Ok(())
}

async fn restore(config: &CloudConfig, file: &Path) -> anyhow::Result<()> {
    let mut listeners = vec![config.grpc_listen, config.operators.listen];
    listeners.extend(config.web.as_ref().map(|web| web.listen));
    let (clock, by) = (Clock::system(), Actor::of_this_account());
    let (database, key_file) = (&config.database, &config.key_file);
    let restored = backup::restore(file, database, key_file, &listeners, &clock, &by).await?;
    say(&restored.to_string());
    Ok(())
}

async fn keys(config: &CloudConfig, command: &Keys) -> anyhow::Result<()> {
    let file = &config.key_file;
    if let Keys::Create = command {
        if file.exists() {
            bail!("{} is there already and is kept", file.display());
        }
        KeyRing::create(file)?;
        say(&format!(
            "Wrote {}. Keep a copy of it in a safe place, apart from the database: without it no stored credential opens.",
            file.display()
        ));
        return Ok(());
    }
    let store = Store::open(&config.database).await?;
    let progress = |done: u64| say(&format!("  {done} data keys are wrapped by the new key"));
    let outcome = match command {
        Keys::Create => Ok(()),
        Keys::List => list_keys(&store, file).await,
        Keys::Rotate => rotate_key(&store, file, progress).await,
        Keys::Retire => {
            let retired = keys::retire(&store, file, progress).await?;
            if !retired.dropped.is_empty() {
                let dropped: Vec<_> = retired.dropped.iter().map(ToString::to_string).collect();
                note(&store, Action::KeysRetired, &dropped.join(", ")).await?;
            }
            match retired.dropped.as_slice() {
                [] => say("There is only one key in the file; nothing was removed."),
                dropped => {
                    let ids: Vec<_> = dropped.iter().map(ToString::to_string).collect();
                    say(&format!(
                        "Removed from {}: {}.",
                        file.display(),
                        ids.join(", ")
                    ));
                    say(
                        "Backups of the database made before the rotation open only with what was removed: keep a copy of it as long as",
                    );
                    say(
                        "you keep those backups, apart from them, and destroy it with the last of them.",
                    );
                }
            }
            Ok(())
        }
    };
    store.close().await;
    outcome
}

/// Enters into the audit log what concerns no tenant.
async fn note(store: &Store, action: Action, detail: &str) -> anyhow::Result<()> {
    let deed = Deed {
        by: &Actor::of_this_account(),
        action,
        tenant: None,
        suite: None,
        detail,
    };
    Ok(store.note(deed, Clock::system().now()).await?)
}

async fn list_keys(store: &Store, file: &Path) -> anyhow::Result<()> {
    for one in keys::list(store, file).await? {
        let place = match one.place {
            keys::Place::Current => "current",
            keys::Place::Earlier => "earlier",
            keys::Place::Missing => "MISSING in the file",
        };
        say(&format!(
            "{}  {:>6} data keys  {place}",
            one.key, one.data_keys
        ));
    }
    Ok(())
}

async fn rotate_key(store: &Store, file: &Path, progress: impl FnMut(u64)) -> anyhow::Result<()> {
    let rotated = keys::rotate(store, file, progress).await?;
    note(store, Action::KeyRotated, &rotated.key.to_string()).await?;
    say(&format!(
        "{} {} in {}; {} data keys were wrapped anew.",
        if rotated.resumed {
            "Finished an interrupted rotation to the key"
        } else {
            "Made the key"
        },
        rotated.key,
        file.display(),
        rotated.rewrapped
    ));
    say(
        "Now: copy the file to where you keep its copy, then presence-cloud keys retire removes the earlier key from it.",
    );
    if !rotated.stuck.is_empty() {
        let ids: Vec<_> = rotated.stuck.iter().map(ToString::to_string).collect();
        bail!(
            "the data keys of these tenants open with no key of the file; find the key, or connect them anew: {}",
            ids.join(", ")
        );
    }
    Ok(())
}

async fn serve(config: CloudConfig) -> anyhow::Result<()> {
    if !config.key_file.exists() {
        bail!(
            "the key file {} is not there; if there is a database already, put your copy of the file back, else make it with: \
             presence-cloud keys create",
            config.key_file.display()
        );
    }
    let traces = config.traces.clone();
    let traces =
        telemetry::init_with_traces(config.log_format, &config.log_filter, traces.as_ref())?;
    let outcome = serve_until_interrupted(config).await;
    traces.stop().await;
    outcome
}

async fn serve_until_interrupted(config: CloudConfig) -> anyhow::Result<()> {
    let cloud = Cloud::build(config, Parts::default()).await?;
    let stop = CancellationToken::new();
    let signal = stop.clone();
    let interrupted = async move {
        telemetry::interrupted().await;
        signal.cancel();
        telemetry::interrupted().await;
        let _ = writeln!(
            std::io::stderr(),
            "presence-cloud: interrupted twice, ending at once"
        );
        std::process::exit(130);
    };
    tokio::select! {
        outcome = cloud.run(stop) => Ok(outcome?),
        () = interrupted => Ok(()),
    }
}

/// Prints one step of a check. Returns whether it went well.
fn step(what: &str, outcome: &anyhow::Result<String>) -> bool {
    match outcome {
        Ok(found) => say(&format!("  ok    {what}: {found}")),
        Err(e) => say(&format!("  FAIL  {what}: {e:#}")),
    }
    outcome.is_ok()
}

async fn check(path: &Path, config: CloudConfig, offline: bool) -> anyhow::Result<()> {
    say(&format!("{} is well-formed.", path.display()));
    let key = KeyRing::read(&config.key_file)
        .map(|_| config.key_file.display().to_string())
        .context(if config.key_file.exists() {
            "it is there but cannot be used"
        } else {
            "it is not there yet; make it with: presence-cloud keys create"
        });
    let mut well = step("the key that seals credentials", &key);
    let transport = cloud::transport(&config);
    let entra = transport.and_then(|t| cloud::entra(&config, t, Clock::system()));
    well &= step(
        "the credential of the application",
        &entra
            .as_ref()
            .map(|_| format!("client {}", config.client_id))
            .map_err(|e| anyhow!(chain(e))),
    );
    if let Ok(entra) = &entra {
        well &= check_ends(entra);
    }
    well &= check_tls("TLS of the gRPC listener", config.grpc_tls.as_ref());
    let store = if config.database.exists() {
        let store = Store::open(&config.database).await;
        let found = store
            .as_ref()
            .map(|_| config.database.display().to_string());
        well &= step("the database", &found.map_err(|e| anyhow!(chain(e))));
        store.ok()
    } else {
        let name = config.database.display();
        say(&format!(
            "  note  the database: {name} is not there yet; it is made when it is needed"
        ));
        None
    };
    well &= check_port("the gRPC port", config.grpc_listen).await;
    say(&format!(
        "  note  the budget: {} presence requests per {} s and tenant; everybody is read every {:?} at best",
        config.poll.presence.allowed(),
        config.poll.presence.window.as_secs(),
        config.poll.interval
    ));
    well &= check_pages(&config).await;
    let tenants = match &store {
        Some(store) => store.tenants().await?,
        None => Vec::new(),
    };
    if tenants.is_empty() {
        say("  note  no tenant is connected yet: presence-cloud tenant add");
    }
    if let (Ok(entra), false) = (&entra, offline) {
        for tenant in tenants.iter().filter(|t| t.status == TenantStatus::Active) {
            well &= step(
                &format!("Microsoft and {}", tenant.name),
                &let_in(entra, tenant).await,
            );
        }
    }
    if !well {
        bail!("something has to be mended first");
    }
    say("All is well.");
    Ok(())
}

/// Says when our credentials end. Returns whether there is one that has not ended.
fn check_ends(entra: &Entra) -> bool {
    let now = Clock::system().now();
    let credentials = entra.credentials();
    for credential in &credentials {
        match (credential.ends, credential.ending(now)) {
            (None, _) => say(&format!(
                "  note  {credential}: it does not tell when it ends; `ends` in the configuration says it"
            )),
            (Some(ends), Ending::Far) => say(&format!("  ok    {credential}: ends {ends}")),
            (Some(ends), Ending::Ended) => say(&format!("  WARN  {credential}: HAS ENDED {ends}")),
            (Some(ends), _) => {
                let days = now.until(ends).as_secs() / 86_400;
                say(&format!(
                    "  WARN  {credential}: ends {ends}, in {days} days; add the next one beside it"
                ));
            }
        }
    }
    let usable = credentials
        .iter()
        .any(|one| one.ending(now) != Ending::Ended);
    if !usable {
        say("  FAIL  the credentials of the application have all ended");
    }
    usable
}

/// A running server has the port: that is no fault.
async fn check_port(what: &str, address: SocketAddr) -> bool {
    match tokio::net::TcpListener::bind(address).await {
        Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {
            say(&format!(
                "  note  {what}: {address} is in use, by a running presence-cloud or by something else"
            ));
            true
        }
        port => {
            let port = port
                .map(|_| format!("{address} is free"))
                .with_context(|| format!("{address} cannot be used"));
            step(what, &port)
        }
    }
}

fn check_tls(what: &str, files: Option<&TlsFiles>) -> bool {
    files.is_none_or(|files| {
        let tls = cloud::listener::tls(&files.certificate, &files.private_key);
        let fits = tls.map(|_| "certificate and key fit".into());
        step(what, &fits.map_err(Into::into))
    })
}

/// The pages: their certificate, their port, and what has to be registered with Microsoft.
async fn check_pages(config: &CloudConfig) -> bool {
    let Some(web) = &config.web else {
        say("  note  the pages: none; set [web] listen to let customers connect themselves");
        return true;
    };
    let mut well = true;
    well &= check_tls("TLS of the pages", web.tls.as_ref());
    well &= check_port("the port of the pages", web.listen).await;
    say(&format!(
        "  note  the pages: register {} with Microsoft as a redirect address of the platform \"Web\"",
        web.redirect_uri()
    ));
    well
}

/// Whether Microsoft lets us in. A service account's refresh token is not spent for a check: there only the tenant is asked for.
async fn let_in(entra: &Entra, tenant: &TenantRow) -> anyhow::Result<String> {
    let failed = |e: MicrosoftError| anyhow!(chain(&e));
    match tenant.connection {
        ConnectionKind::Organisation => {
            entra.app_token(tenant.id).await.map_err(failed)?;
            Ok("gives us access".into())
        }
        ConnectionKind::ServiceAccount => {
            entra
                .discover(&tenant.id.to_string())
                .await
                .map_err(failed)?;
            Ok("knows the organisation".into())
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
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

async fn tenant(config: CloudConfig, command: Tenant) -> anyhow::Result<()> {
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

async fn suite(config: CloudConfig, command: Suite) -> anyhow::Result<()> {
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
