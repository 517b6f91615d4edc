//! `presence-sim`: a simulated Microsoft, to try and change presence-bridge without a Microsoft tenant.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand};
use presence_bridge::clock::Clock;
use presence_bridge::config::load::parse_duration;
use presence_bridge::secret::{random_token, read_secret_file};
use presence_bridge::simulator::{AppRegistration, Fault, Life, Microsoft, Options, TenantSpec};
use presence_bridge::telemetry::{self, LogFormat};
use presence_bridge::world::demo::{self, DemoSettings};
use presence_bridge::world::load::{self, LoadSettings};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::{Uuid, uuid};

/// Client id of the application that `serve` registers.
const CLIENT_ID: Uuid = uuid!("5eed0000-0000-4000-8000-000000000001");

/// A simulated Microsoft: sign-in (Entra) and Graph, with people who live a working day.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the whole product against the simulated Microsoft and show what happens.
    #[command(after_help = "Exit code 0 only if presence flowed to every suite.")]
    Demo(Demo),
    /// Start the simulated Microsoft.
    Serve(Serve),
    /// Put a presence-cloud under load and tell what it costs, how late changes come, and whether everything is right in the end.
    #[command(after_help = LOAD_HELP)]
    Load(Load),
    /// The suites of a load, in a process of their own.
    #[command(name = load::apart::COMMAND, hide = true)]
    LoadSuites,
    /// Make something go wrong in a running simulator.
    Fault(FaultArgs),
    /// Say what somebody shows in a running simulator.
    Presence(Presence),
    /// Let something happen to an account in a running simulator.
    Person(Person),
    /// Let an administrator decide something for a whole organisation in a running simulator.
    Organisation(Organisation),
}

#[derive(Args)]
struct Demo {
    /// Keep configuration, database and keys in this folder; a temporary one otherwise.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// One JSON object per event instead of the live view.
    #[arg(long)]
    json: bool,
    /// End after this time, for example 20s.
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    length: Option<Duration>,
    /// The same seed gives the same people and days.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

const LOAD_HELP: &str = "\
Examples:
  presence-sim load
  presence-sim load --tenants 50 --people 2000 --suites 4 --watch 500 --rate 200 --for 5m
  presence-sim load --config /etc/presence-cloud/cloud.toml --pid $(pidof presence-cloud)

With --config, [microsoft] of that configuration must name an address of this machine where nothing listens: there the
load stands in for Microsoft. The tenants load1.example, load2.example … are connected to it and stay.

Exit code 0 only if in the end every suite showed what is so. See docs/load.md for each line of the output.";

#[derive(Args)]
struct Load {
    /// How many tenants.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    tenants: u32,
    /// How many people in each tenant.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    people: u32,
    /// How many suites of each tenant.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    suites: u32,
    /// How many people each suite watches; without it everybody of its tenant.
    #[arg(long, value_name = "PEOPLE", value_parser = clap::value_parser!(u32).range(1..))]
    watch: Option<u32>,
    /// Changes per second, over all tenants.
    #[arg(long, default_value_t = 50.0, value_parser = rate)]
    rate: f64,
    /// How long changes are made and counted.
    #[arg(long = "for", value_name = "TIME", default_value = "1m", value_parser = duration)]
    length: Duration,
    /// Time between two readings of Microsoft, for the presence-cloud that is started.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration, conflicts_with = "config")]
    interval: Duration,
    /// Wait so long for everybody to be known in the beginning, and for everything to be right in the end.
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = duration)]
    patience: Duration,
    /// The same seed gives the same tenants, people and changes.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run the suites in a process of their own, so that they do not wait for the simulated Microsoft.
    #[arg(long)]
    apart: bool,
    /// One JSON object per event instead of text; the last one is the summary.
    #[arg(long)]
    json: bool,
    /// Keep configuration, database, log and keys in this folder; a temporary one otherwise.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// The presence-cloud to start; without it the one beside this program.
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    program: Option<PathBuf>,
    /// Configuration of a presence-cloud that runs already on this machine, instead of starting one.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Its process id, to tell what it uses.
    #[arg(long, requires = "config")]
    pid: Option<u32>,
}

fn rate(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|rate: &f64| (0.0..=1_000_000.0).contains(rate))
        .ok_or_else(|| "write a number of changes per second from 0 to 1000000".into())
}

async fn put_under_load(args: Load) -> anyhow::Result<bool> {
    let program = match args.program {
        Some(program) => program,
        None => std::env::current_exe()
            .context("cannot find this program")?
            .with_file_name(format!("presence-cloud{}", std::env::consts::EXE_SUFFIX)),
    };
    if args.config.is_none() && !program.exists() {
        bail!(
            "there is no presence-cloud at {}; build it with cargo build --release, or name one with --program",
            program.display()
        );
    }
    let count = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
    Ok(load::run(LoadSettings {
        tenants: count(args.tenants),
        people: count(args.people),
        suites: count(args.suites),
        watch: count(args.watch.unwrap_or(args.people)),
        rate: args.rate,
        length: args.length,
        interval: args.interval,
        seed: args.seed,
        json: args.json,
        apart: args.apart,
        keep: args.keep,
        program,
        config: args.config,
        pid: args.pid,
        patience: args.patience,
    })
    .await?)
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "write it like 20s, 5m or 1h".into())
}

#[derive(Args)]
struct Serve {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:8900")]
    listen: SocketAddr,
    /// How many tenants.
    #[arg(long, default_value_t = 2)]
    tenants: usize,
    /// How many people in each tenant.
    #[arg(long, default_value_t = 200)]
    people: usize,
    /// The same seed gives the same tenants, people and days.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Simulated seconds per second. 0 stands still: people move only when told.
    #[arg(long, default_value_t = 1.0)]
    speed: f64,
    /// Follow the clock instead of starting on a Tuesday at 09:30.
    #[arg(long)]
    real_time: bool,
    /// File that keeps the client secret; written when it is not there.
    #[arg(long, default_value = "presence-sim.secret")]
    secret_file: PathBuf,
    /// Addresses to which sign-in may send people back.
    #[arg(long, default_values = ["http://127.0.0.1:8080/callback", "http://localhost:8080/callback"])]
    redirect_uri: Vec<String>,
}

#[derive(Args)]
struct FaultArgs {
    #[command(subcommand)]
    action: FaultAction,
    /// Address of the running simulator.
    #[arg(long, global = true, default_value = "http://127.0.0.1:8900")]
    at: url::Url,
}

#[derive(Subcommand)]
enum FaultAction {
    /// List all faults, and those that are on.
    List,
    /// Switch a fault on.
    Set {
        /// Its name; `presence-sim fault list` shows all.
        name: String,
        /// Only for this tenant: id or domain.
        #[arg(long)]
        tenant: Option<String>,
        /// Only for this kind of request: presence, users, batch, batch-item, token, discovery, keys or authorize.
        #[arg(long)]
        endpoint: Option<String>,
        /// For so many requests; without it until cleared.
        #[arg(long)]
        count: Option<u32>,
        /// Seconds in Retry-After.
        #[arg(long)]
        retry_after: Option<u32>,
        /// Milliseconds of delay.
        #[arg(long)]
        delay_ms: Option<u64>,
        /// Object id of a person.
        #[arg(long)]
        user: Option<Uuid>,
        /// HTTP status.
        #[arg(long)]
        status: Option<u16>,
        /// Address of a redirect.
        #[arg(long)]
        to: Option<String>,
        /// Grant type, or `authorize` for the sign-in page.
        #[arg(long)]
        grant: Option<String>,
        /// What is wrong with the id token.
        #[arg(long)]
        flaw: Option<String>,
    },
    /// Switch a fault off, or all of them.
    Clear {
        /// Its name.
        name: Option<String>,
    },
}

#[derive(Args)]
struct Presence {
    /// Whose.
    upn: String,
    /// For example `Available`, `Busy`, `DoNotDisturb` or `Away`; any text is allowed.
    #[arg(required_unless_present = "clear")]
    availability: Option<String>,
    /// For example `InACall`; without it the availability.
    activity: Option<String>,
    /// Back to living the day.
    #[arg(long, conflicts_with = "availability")]
    clear: bool,
    /// Address of the running simulator.
    #[arg(long, default_value = "http://127.0.0.1:8900")]
    at: url::Url,
}

#[derive(Args)]
struct Person {
    /// add, guest, rename, delete, disable, enable, revoke, reset-password, change-password, demand-mfa, waive-mfa, administrator
    /// or ordinary.
    action: String,
    /// Whose account; for a guest the address at home.
    upn: String,
    /// The new name, for rename.
    #[arg(long)]
    to: Option<String>,
    /// The organisation, for guest.
    #[arg(long)]
    tenant: Option<String>,
    /// Address of the running simulator.
    #[arg(long, default_value = "http://127.0.0.1:8900")]
    at: url::Url,
}

#[derive(Args)]
struct Organisation {
    /// Id or domain.
    tenant: String,
    /// Whether ordinary people may consent to applications.
    #[arg(long, value_name = "true|false")]
    user_consent: Option<bool>,
    /// Whether Conditional Access blocks sign-ins and refreshes (AADSTS53003).
    #[arg(long, value_name = "true|false")]
    blocked: Option<bool>,
    /// Sign-ins end after so many seconds (AADSTS70043); 0 for never.
    #[arg(long, value_name = "SECONDS")]
    sign_in_every_secs: Option<u64>,
    /// What becomes of the enterprise application: enabled, disabled (AADSTS7000112) or removed.
    #[arg(long)]
    application: Option<String>,
    /// Whether people must be assigned to the application (AADSTS50105).
    #[arg(long, value_name = "true|false")]
    assignment_required: Option<bool>,
    /// Assign this account to the application.
    #[arg(long, value_name = "UPN")]
    assign: Option<String>,
    /// Delete the organisation (AADSTS90002), or bring it back.
    #[arg(long, value_name = "true|false")]
    deleted: Option<bool>,
    /// The cloud it lives in: global, us-government or china.
    #[arg(long)]
    cloud: Option<String>,
    /// What discovery says of another cloud: refused or document.
    #[arg(long, requires = "cloud")]
    discovery: Option<String>,
    /// Client id of the application; that of `presence-sim serve` unless told.
    #[arg(long, default_value_t = CLIENT_ID)]
    client_id: Uuid,
    /// Address of the running simulator.
    #[arg(long, default_value = "http://127.0.0.1:8900")]
    at: url::Url,
}

#[tokio::main]
async fn main() -> ExitCode {
    let command = Cli::parse().command;
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    // Log lines would spoil the demo's picture; what goes wrong is part of it.
    let filter = match command {
        Command::Demo(_) | Command::Load(_) | Command::LoadSuites => "off",
        _ => "info",
    };
    telemetry::init(LogFormat::Text, filter);
    let done = match command {
        Command::Demo(args) => match demo::run(DemoSettings {
            keep: args.keep,
            json: args.json,
            length: args.length,
            seed: args.seed,
        })
        .await
        {
            Ok(true) => Ok(()),
            Ok(false) => Err(anyhow::anyhow!("presence did not flow to every suite")),
            Err(e) => Err(e.into()),
        },
        Command::Serve(args) => serve(args).await,
        Command::Load(args) => match put_under_load(args).await {
            Ok(true) => Ok(()),
            // The report has said it.
            Ok(false) => return ExitCode::FAILURE,
            Err(e) => Err(e),
        },
        Command::LoadSuites => load::apart::serve().await.map_err(Into::into),
        Command::Fault(args) => fault(args).await,
        Command::Presence(args) => presence(args).await,
        Command::Person(args) => person(args).await,
        Command::Organisation(args) => organisation(args).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "presence-sim: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn say(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{text}").context("cannot write to standard output")
}

async fn serve(args: Serve) -> anyhow::Result<()> {
    let secret = match read_secret_file(&args.secret_file) {
        Ok(secret) => secret.expose().to_owned(),
        Err(_) if !args.secret_file.exists() => write_secret(&args.secret_file)?,
        Err(e) => return Err(e).context("cannot use the secret file"),
    };
    let life = if args.speed > 0.0 {
        Life::Day { speed: args.speed }
    } else {
        Life::Explicit
    };
    let opening = (!args.real_time).then(|| Duration::from_mins(9 * 60 + 30));
    let microsoft = Microsoft::new(
        Options {
            seed: args.seed,
            life,
            opening,
            ..Options::default()
        },
        Clock::system(),
    );
    microsoft.register_app(AppRegistration {
        client_id: CLIENT_ID,
        secrets: vec![secret],
        certificates_pem: Vec::new(),
        redirect_uris: args.redirect_uri,
    });
    let listener = tokio::net::TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("cannot listen on {}", args.listen))?;
    let at = format!("http://{}", listener.local_addr()?);
    say(&format!("A simulated Microsoft is at {at}\n"))?;
    for n in 0..args.tenants {
        let (name, domain) = match n {
            0 => ("Contoso".to_owned(), "contoso.example".to_owned()),
            1 => ("Fabrikam".to_owned(), "fabrikam.example".to_owned()),
            n => (
                format!("Tenant {}", n + 1),
                format!("tenant{}.example", n + 1),
            ),
        };
        let tenant = microsoft.add_tenant(TenantSpec {
            id: None,
            domain,
            name,
            people: args.people,
        });
        let all = ["Presence.Read.All", "User.ReadBasic.All"];
        tenant.grant_consent(CLIENT_ID, &all, &[]);
        let example = tenant.people().into_iter().next().map(|p| p.upn);
        let administrator = tenant.administrators().into_iter().next().map(|p| p.upn);
        let nobody = || "nobody".to_owned();
        say(&format!(
            "  tenant {}  {}  {} people, such as {}; administrator: {}",
            tenant.id(),
            tenant.domain(),
            args.people,
            example.unwrap_or_else(nobody),
            administrator.unwrap_or_else(nobody)
        ))?;
    }
    say(&format!(
        "\n  client id      {CLIENT_ID}\n  client secret  in {}\n\nFor presence-cloud: use {at} as the root of sign-in and {at} as that of Graph.\n\
         The tenants above have consented to the application permissions.\n\n\
         See    {at}/sim\n\
         Try    presence-sim fault set throttle --count 5 --at {at}\n\
         Try    presence-sim person disable UPN --at {at}\n\
         Stop   Ctrl-C",
        args.secret_file.display()
    ))?;
    let stop = CancellationToken::new();
    let serving = microsoft.serve(listener, stop.clone());
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        done = &mut serving => return done.context("the listener failed"),
        told = tokio::signal::ctrl_c() => told.context("cannot wait for Ctrl-C")?,
    }
    stop.cancel();
    serving.await.context("the listener failed")
}

/// Makes a secret and keeps it where only the owner can read it.
fn write_secret(path: &Path) -> anyhow::Result<String> {
    let secret = random_token();
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    options
        .open(path)
        .and_then(|mut file| writeln!(file, "{secret}"))
        .with_context(|| format!("cannot write the secret to {}", path.display()))?;
    Ok(secret)
}

async fn fault(args: FaultArgs) -> anyhow::Result<()> {
    match args.action {
        FaultAction::List => {
            for f in Fault::ALL {
                say(&format!("{:<24}{:<16}{}", f.name, f.parameters, f.about))?;
            }
            match call(&args.at, reqwest::Method::GET, "sim/faults", None).await {
                Ok(answer) => say(&format!("\nOn now: {}", answer["on"])),
                Err(_) => say(&format!("\nNo simulator answers at {}.", args.at)),
            }
        }
        FaultAction::Set {
            name,
            tenant,
            endpoint,
            count,
            retry_after,
            delay_ms,
            user,
            status,
            to,
            grant,
            flaw,
        } => {
            let mut body = json!({
                "name": name, "tenant": tenant, "endpoint": endpoint, "count": count, "retry_after": retry_after,
                "delay_ms": delay_ms, "user": user, "status": status, "to": to, "grant": grant, "flaw": flaw,
            });
            if let Some(fields) = body.as_object_mut() {
                fields.retain(|_, value| !value.is_null());
            }
            let answer = call(&args.at, reqwest::Method::POST, "sim/faults", Some(body)).await?;
            say(&format!("On now: {}", answer["on"]))
        }
        FaultAction::Clear { name } => {
            let path = match name {
                Some(name) => format!("sim/faults/{name}"),
                None => "sim/faults".to_owned(),
            };
            let answer = call(&args.at, reqwest::Method::DELETE, &path, None).await?;
            say(&format!(
                "Cleared {}. On now: {}",
                answer["cleared"], answer["on"]
            ))
        }
    }
}

async fn presence(args: Presence) -> anyhow::Result<()> {
    let mut body = json!({ "upn": args.upn, "clear": args.clear });
    if let Some(availability) = args.availability {
        body["activity"] = args.activity.unwrap_or_else(|| availability.clone()).into();
        body["availability"] = availability.into();
    }
    let answer = call(&args.at, reqwest::Method::POST, "sim/presence", Some(body)).await?;
    say(&format!(
        "Done, in {}.",
        answer["tenant"].as_str().unwrap_or_default()
    ))
}

async fn person(args: Person) -> anyhow::Result<()> {
    let body = json!({ "upn": args.upn, "to": args.to, "tenant": args.tenant });
    let path = format!("sim/people/{}", args.action);
    let answer = call(&args.at, reqwest::Method::POST, &path, Some(body)).await?;
    match answer["upn"].as_str() {
        Some(upn) => say(&format!("Done: {upn}")),
        None => say("Done."),
    }
}

async fn organisation(args: Organisation) -> anyhow::Result<()> {
    let mut body = json!({
        "tenant": args.tenant, "client_id": args.client_id, "user_consent": args.user_consent, "blocked": args.blocked,
        "sign_in_every_secs": args.sign_in_every_secs, "application": args.application,
        "assignment_required": args.assignment_required, "assign": args.assign, "deleted": args.deleted, "cloud": args.cloud,
        "discovery": args.discovery,
    });
    if let Some(fields) = body.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    let answer = call(
        &args.at,
        reqwest::Method::POST,
        "sim/organisation",
        Some(body),
    )
    .await?;
    say(&format!(
        "Done, in {}.",
        answer["changed"].as_str().unwrap_or_default()
    ))
}

/// Calls the control API of a running simulator.
async fn call(
    at: &url::Url,
    method: reqwest::Method,
    path: &str,
    body: Option<Value>,
) -> anyhow::Result<Value> {
    let client = reqwest::Client::builder()
        .timeout(Duration::from_secs(10))
        .build()?;
    let mut request = client.request(method, at.join(path)?);
    if let Some(body) = body {
        request = request
            .header("content-type", "application/json")
            .body(body.to_string());
    }
    let answer = request.send().await.with_context(|| {
        format!("no simulator answers at {at}; start one with: presence-sim serve")
    })?;
    let ok = answer.status().is_success();
    let text = answer.text().await?;
    let value: Value = serde_json::from_str(&text)
        .with_context(|| format!("what answers at {at} is no presence-sim"))?;
    if !ok {
        bail!(
            "{}\nvalid: {}",
            value["error"].as_str().unwrap_or("refused"),
            serde_json::to_string_pretty(&value["valid"])?
        );
    }
    Ok(value)
}
