//! presence-agent: runs beside the suite.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, Parser, Subcommand};
use presence_bridge::agent::connection::CloudAddress;
use presence_bridge::agent::identity::{Enrolment, Identity, check_not_enrolled};
use presence_bridge::agent::json;
use presence_bridge::agent::table::{self, Screen, Wish};
use presence_bridge::agent::uplink::{Uplink, UplinkHandle, UplinkSettings};
use presence_bridge::agent::view::Event;
use presence_bridge::clock::Clock;
use presence_bridge::config::agent::AgentConfig;
use presence_bridge::config::load::parse_duration;
use presence_bridge::config::presence_ini::PresenceIni;
use presence_bridge::secret::{Secret, read_secret_file};
use presence_bridge::telemetry;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use url::Url;

/// Receives Microsoft Teams presence for a phone system.
#[derive(Parser)]
#[command(
    version,
    about,
    after_help = "Start with `presence-agent enroll`, then `presence-agent watch ann@contoso.com`."
)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Common {
    /// The configuration file. Default: none, everything has a default.
    #[arg(long, short, global = true, env = "PRESENCE_AGENT_CONFIG")]
    config: Option<PathBuf>,
    /// Folder with the suite's key and identity. Default: /var/lib/presence-agent for root, else ~/.local/share/presence-agent.
    #[arg(long, global = true, value_name = "DIR")]
    state: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Trades a one-time enrolment code for an identity.
    Enroll {
        /// Where the cloud is, for example `https://presence.example.com:8443`.
        #[arg(long, required_unless_present = "ini", value_parser = address)]
        cloud: Option<Url>,
        /// Presence.ini with the lines the onboarding page showed: address, enrolment code and name. The code is good once; delete
        /// it from the file afterwards.
        #[arg(long, value_name = "FILE", conflicts_with_all = ["cloud", "code_file"])]
        ini: Option<PathBuf>,
        /// File with the enrolment code; "-" asks for it or reads standard input.
        #[arg(long, value_name = "FILE", default_value = "-")]
        code_file: PathBuf,
        /// A name by which people recognise this suite, at most 100 bytes. Default: the name of this machine.
        #[arg(long, value_parser = suite_name)]
        name: Option<String>,
        /// Certificates to trust instead of those of the operating system, PEM.
        #[arg(long, value_name = "FILE")]
        ca: Option<PathBuf>,
        /// Replace an identity that is there already.
        #[arg(long)]
        replace: bool,
    },
    /// Shows people's presence as it changes: a live table in a terminal, else a line per event.
    #[command(
        after_help = "Exit codes: 0 ended as asked, 1 something is wrong that trying again cannot mend, 2 wrong usage, 3 nothing was received within --for."
    )]
    Watch {
        /// Whom to watch, besides those of the configuration.
        upns: Vec<String>,
        /// A file with more of them, one per line; # begins a comment.
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// One JSON object per event and line.
        #[arg(long)]
        json: bool,
        /// End after this time, for example 20s.
        #[arg(long = "for", value_name = "TIME", value_parser = duration)]
        length: Option<Duration>,
    },
    /// Goes through everything step by step and says what is wrong.
    Check,
}

fn address(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).ok();
    url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .ok_or_else(|| "write it like https://presence.example.com:8443".into())
}

fn suite_name(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("give it a name".into()),
        name if name.len() > 100 => Err("at most 100 bytes".into()),
        name => Ok(name.into()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "write it like 20s, 5m or 1h".into())
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
    let outcome = runtime.block_on(run(cli));
    // A thread that waits for a key must not keep the process.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => code,
        Err(e) => failed(&e),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "presence-agent: {error:#}");
    ExitCode::FAILURE
}

/// False when nobody reads any more.
fn say(text: &str) -> bool {
    writeln!(std::io::stdout(), "{text}").is_ok()
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let config = match &cli.common.config {
        Some(path) => AgentConfig::read(path),
        None => AgentConfig::without_file(),
    };
    let config = config.map_err(|e| anyhow!("{e}"))?;
    telemetry::init(config.log_format, &config.log_filter);
    let state = cli
        .common
        .state
        .or_else(|| config.state_dir.clone())
        .map_or_else(default_state, Ok)?;
    match cli.command {
        Command::Enroll {
            cloud,
            ini,
            code_file,
            name,
            ca,
            replace,
        } => {
            // Before anybody looks for a code that is of no use then.
            check_not_enrolled(&state, replace)?;
            let (url, code, name) = match (cloud, ini) {
                (_, Some(path)) => {
                    let ini = PresenceIni::read(&path).map_err(|e| anyhow!("{e}"))?;
                    (ini.address, ini.code, name.or(ini.suite_name))
                }
                (Some(url), None) => (url, code(&code_file)?, name),
                (None, None) => bail!("name the cloud with --cloud, or a file with --ini"),
            };
            let enrolment = Enrolment {
                cloud: CloudAddress {
                    url,
                    ca_file: ca.as_deref().map(absolute).transpose()?,
                },
                code,
                suite_name: name.unwrap_or_else(machine_name),
                state: state.clone(),
                replace,
            };
            let identity = Identity::enroll(enrolment, &Clock::system()).await?;
            say(&format!(
                "Enrolled as suite {} of {}.",
                identity.suite_id, identity.tenant_name
            ));
            say(&format!(
                "Its key is in {}. Next: presence-agent watch ann@contoso.com",
                state.display()
            ));
            Ok(ExitCode::SUCCESS)
        }
        Command::Watch {
            upns,
            file,
            json,
            length,
        } => {
            let upns = watch_list(&config, upns, file.as_deref())?;
            if upns.is_empty() {
                bail!(
                    "there is nobody to watch: name people on the command line, in --file, or under [watch] in the configuration"
                );
            }
            watch(&config, &state, upns, json, length).await
        }
        Command::Check => check(&state).await,
    }
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("{} cannot be found", path.display()))
}

fn default_state() -> anyhow::Result<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let system = Path::new("/var/lib/presence-agent");
    if system.is_dir() || home.as_deref() == Some(Path::new("/root")) {
        return Ok(system.into());
    }
    let home = home.context("HOME is not set; name a folder with --state")?;
    Ok(home.join(".local/share/presence-agent"))
}

fn machine_name() -> String {
    std::fs::read_to_string("/etc/hostname")
        .map_or_else(|_| "suite".into(), |name| name.trim().to_owned())
}

fn code(file: &Path) -> anyhow::Result<Secret> {
    if file != Path::new("-") {
        return Ok(read_secret_file(file)?);
    }
    let mut text = String::new();
    if std::io::stdin().is_terminal() {
        let _ = write!(std::io::stderr(), "Enrolment code: ");
        std::io::stdin().read_line(&mut text)?;
    } else {
        std::io::stdin().take(1024).read_to_string(&mut text)?;
    }
    if text.trim().is_empty() {
        bail!("there was no enrolment code; ask the operator of the cloud for one");
    }
    Ok(Secret::new(text.trim()))
}

fn watch_list(
    config: &AgentConfig,
    more: Vec<String>,
    file: Option<&Path>,
) -> anyhow::Result<Vec<String>> {
    let mut upns = config.upns.clone();
    for path in config.upns_file.as_deref().into_iter().chain(file) {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("{} cannot be read", path.display()))?;
        let lines = text
            .lines()
            .map(|line| line.split('#').next().unwrap_or_default().trim());
        // A guest's UPN contains "#EXT#": such a line is taken whole.
        for (whole, line) in text.lines().zip(lines) {
            let name = if whole.to_ascii_lowercase().contains("#ext#") {
                whole.trim()
            } else {
                line
            };
            if !name.is_empty() {
                upns.push(name.to_owned());
            }
        }
    }
    upns.extend(more);
    Ok(upns)
}

async fn watch(
    config: &AgentConfig,
    state: &Path,
    upns: Vec<String>,
    json: bool,
    length: Option<Duration>,
) -> anyhow::Result<ExitCode> {
    let identity = Identity::load(state)?;
    let cloud = identity.cloud.url.to_string();
    let settings = UplinkSettings {
        backoff: config.backoff,
    };
    let (uplink, events) =
        Uplink::new(identity, upns, Clock::system(), settings, fastrand::u64(..));
    let uplink = uplink.keeping_identity_in(state.into(), config.renew_key_after);
    let handle = uplink.handle();
    let stop = CancellationToken::new();
    let end = async {
        match length {
            Some(length) => tokio::time::sleep(length).await,
            None => std::future::pending().await,
        }
    };
    let shown = async {
        let screen = if json { None } else { Screen::open() };
        match screen {
            Some(screen) => show(screen, &handle, events, &cloud).await,
            None => print(&handle, events, json).await,
        }
    };
    tokio::pin!(shown);
    tokio::select! {
        outcome = uplink.run(stop.clone()) => {
            // The last event says why: it is shown before we end.
            let _ = tokio::time::timeout(Duration::from_secs(2), shown).await;
            outcome.map_err(|e| anyhow!("{e}"))?;
        }
        () = &mut shown => {}
        () = end => {}
        () = telemetry::interrupted() => {}
    }
    stop.cancel();
    let received = handle.view().people().any(|person| person.value.is_some());
    Ok(if length.is_some() && !received {
        ExitCode::from(3)
    } else {
        ExitCode::SUCCESS
    })
}

/// A line per event, until nobody reads.
async fn print(handle: &UplinkHandle, mut events: mpsc::Receiver<Event>, json: bool) {
    let clock = Clock::system();
    while let Some(event) = events.recv().await {
        let now = clock.now();
        let object = json::event(&event, &handle.view(), now);
        let line = if json {
            serde_json::Value::Object(object).to_string()
        } else {
            plain(&event, now)
        };
        if !line.is_empty() && !say(&line) {
            return;
        }
    }
}

/// The first few of many names.
fn some_of(upns: &[String]) -> String {
    let shown = upns.len().min(5);
    let names = upns[..shown].join(", ");
    match upns.len() - shown {
        0 => names,
        more => format!("{names} and {more} more"),
    }
}

/// An event for people without a terminal to draw on; empty when it is of no interest.
fn plain(event: &Event, now: presence_bridge::model::Timestamp) -> String {
    match event {
        Event::Connected { resumed } => format!(
            "{now} connected{}",
            if *resumed { ", resuming" } else { "" }
        ),
        Event::Disconnected { why, remedy, .. } => {
            format!("{now} DISCONNECTED, everything is stale: {why}. {remedy}")
        }
        Event::Presence { upn, value, .. } => {
            format!("{now} {upn}: {}", table::words(&value.presence))
        }
        Event::Freshness { upns, fresh } => {
            let what = if *fresh {
                "confirmed"
            } else {
                "STALE, no longer confirmed"
            };
            format!("{now} {what}: {}", some_of(upns))
        }
        Event::Gone { upn } => format!("{now} {upn}: no longer known"),
        Event::Coverage { upn, coverage } if !coverage.detail.is_empty() => {
            format!("{now} {upn}: {}", coverage.detail)
        }
        Event::TenantStatus(t) => {
            let text = format!("{now} Microsoft: {} {} {}", t.state, t.cause, t.remedy);
            text.trim_end().to_owned()
        }
        Event::Coverage { .. } | Event::SnapshotComplete | Event::Heartbeat { .. } => String::new(),
    }
}

/// The live table, until the person at the keyboard has seen enough.
async fn show(
    mut screen: Screen,
    handle: &UplinkHandle,
    mut events: mpsc::Receiver<Event>,
    cloud: &str,
) {
    let clock = Clock::system();
    let (mut offset, mut note) = (0, String::new());
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    loop {
        tick.tick().await;
        loop {
            match events.try_recv() {
                Ok(Event::Disconnected { why, remedy, .. }) => note = format!("{why}. {remedy}"),
                Ok(_) => {}
                Err(mpsc::error::TryRecvError::Empty) => break,
                Err(mpsc::error::TryRecvError::Disconnected) => return,
            }
        }
        let people = handle.view().people().count();
        match Screen::wish(offset, people) {
            Some(Wish::Quit) => return,
            Some(Wish::Offset(at)) => offset = at,
            None => {}
        }
        let drawn = screen
            .draw(|frame| table::draw(frame, &handle.view(), cloud, &note, offset, clock.now()));
        if drawn.is_err() {
            return;
        }
    }
}

fn step(what: &str, outcome: Result<String, String>) -> bool {
    let well = outcome.is_ok();
    match outcome {
        Ok(found) => say(&format!("  ok    {what}: {found}")),
        Err(e) => say(&format!("  FAIL  {what}: {e}")),
    };
    well
}

async fn check(state: &Path) -> anyhow::Result<ExitCode> {
    let identity = Identity::load(state);
    let found = identity
        .as_ref()
        .map(|i| format!("suite {} of {}", i.suite_id, i.tenant_name))
        .map_err(ToString::to_string);
    if !step("the identity", found) {
        return Ok(ExitCode::FAILURE);
    }
    let identity = identity?;
    let address = identity.cloud.url.clone();
    step("the address of the cloud", Ok(address.to_string()));
    let (uplink, mut events) = Uplink::new(
        identity,
        Vec::new(),
        Clock::system(),
        UplinkSettings::default(),
        fastrand::u64(..),
    );
    let handle = uplink.handle();
    let stop = CancellationToken::new();
    let seen = async {
        loop {
            match events.recv().await {
                Some(Event::Disconnected { why, remedy, .. }) => {
                    return Err(format!("{why}. {remedy}"));
                }
                Some(Event::TenantStatus(_)) | None => {
                    return Ok("connected, the credential is accepted".into());
                }
                Some(_) => {}
            }
        }
    };
    let outcome = tokio::select! {
        outcome = tokio::time::timeout(Duration::from_secs(20), seen) => {
            outcome.unwrap_or_else(|_| Err("no answer within 20 seconds".into()))
        }
        outcome = uplink.run(stop.clone()) => outcome.map(|()| String::new()).map_err(|e| e.to_string()),
    };
    let mut well = step("the connection", outcome);
    if let Some(tenant) = handle.view().tenant() {
        // With nobody watched nothing is read, so a tenant that is still pending is no fault.
        let fine = tenant.connected || tenant.state == "pending";
        let text = if tenant.state == "pending" {
            "nothing has been read yet; that begins when somebody is watched".to_owned()
        } else {
            format!(
                "{} {} {} {}",
                tenant.state, tenant.cause, tenant.remedy, tenant.code
            )
        };
        let text = text.trim_end().to_owned();
        well &= step(
            "the cloud's connection to Microsoft",
            if fine { Ok(text) } else { Err(text) },
        );
    }
    Ok(if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
