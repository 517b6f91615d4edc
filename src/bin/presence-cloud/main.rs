//! presence-cloud: the multi-tenant service.
//!
//! A command is a variant of [`Command`] and a line in [`run`]; what it does is in a file of its own.

mod alert;
mod api_token;
mod audit;
mod backup;
mod check;
mod doctor;
mod keys;
mod operators;
mod output;
mod ready;
mod serve;
mod suite;
mod talk;
mod tenant;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::anyhow;
use clap::{CommandFactory as _, Parser, Subcommand};
use presence_bridge::config::cloud::CloudConfig;
use presence_bridge::config::load::ConfigError;
use talk::Ask;

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
    /// Asks the running service of this machine whether it can serve; for container engines. Exit code 1: it cannot.
    Ready,
    /// The key that seals all credentials: make it, replace it.
    #[command(subcommand)]
    Keys(keys::Keys),
    /// Tenants: the organisations whose presence is read.
    Tenant {
        #[command(flatten)]
        ask: Ask,
        #[command(subcommand)]
        command: tenant::Tenant,
    },
    /// Suites: the phone systems that receive presence.
    Suite {
        #[command(flatten)]
        ask: Ask,
        #[command(subcommand)]
        command: suite::Suite,
    },
    /// Alerts: what is not as it should be, and what to do.
    Alert {
        #[command(flatten)]
        ask: Ask,
        #[command(subcommand)]
        command: alert::Alert,
    },
    /// The audit log: who did what to which tenant, and when.
    Audit {
        #[command(flatten)]
        ask: Ask,
        #[command(flatten)]
        wanted: audit::Entries,
    },
    /// Tokens with which programs use the admin API.
    ApiToken {
        #[command(flatten)]
        ask: Ask,
        #[command(subcommand)]
        command: api_token::ApiToken,
    },
    /// Operators: who signs in to their pages.
    #[command(subcommand)]
    Operators(operators::Operators),
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
    /// Walks from the sign-in to the listeners, and says which hop fails, why, and what to do.
    Doctor {
        /// By which organisation Microsoft is asked: its name or id. Default: the first that is not paused.
        #[arg(long)]
        tenant: Option<String>,
        /// Print one JSON value instead of a list.
        #[arg(long)]
        json: bool,
    },
    /// Prints what a shell needs to complete these commands.
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// Whether what it says is read by a program.
    fn is_for_programs(&self) -> bool {
        match self {
            Self::Tenant { ask, .. }
            | Self::Suite { ask, .. }
            | Self::Alert { ask, .. }
            | Self::Audit { ask, .. }
            | Self::ApiToken { ask, .. } => ask.json,
            Self::Doctor { json, .. } => *json,
            _ => false,
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.command.is_for_programs();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => return output::failed(&anyhow!(e), json),
    };
    match runtime.block_on(run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => output::failed(&e, json),
    }
}

/// The configuration, or everything that is wrong with it.
fn read(config: &Path) -> anyhow::Result<CloudConfig> {
    CloudConfig::read(config).map_err(|e| {
        let hint = match &e {
            ConfigError::Read(_, why) if why.kind() == std::io::ErrorKind::NotFound => {
                "\nname the file with --config, or in PRESENCE_CLOUD_CONFIG"
            }
            _ => "",
        };
        anyhow!("{e}{hint}")
    })
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let file = &cli.config;
    match cli.command {
        Command::Serve => serve::serve(read(file)?).await,
        Command::Check { offline } => check::check(file, read(file)?, offline).await,
        Command::Keys(command) => keys::keys(&read(file)?, &command).await,
        Command::Tenant { ask, command } => tenant::tenant(file, &ask, command).await,
        Command::Suite { ask, command } => suite::suite(file, &ask, command).await,
        Command::Alert { ask, command } => alert::alert(file, &ask, command).await,
        Command::Audit { ask, wanted } => audit::audit(file, &ask, wanted).await,
        Command::ApiToken { ask, command } => api_token::api_token(file, &ask, command).await,
        Command::Ready => ready::ready(&read(file)?).await,
        Command::Operators(operators::Operators::Password { replace }) => {
            operators::operators_password(&read(file)?, replace)
        }
        Command::Backup { target } => backup::backup(&read(file)?, &target).await,
        Command::Restore { file: from } => backup::restore(&read(file)?, &from).await,
        Command::Doctor { tenant, json } => {
            doctor::doctor(&read(file)?, tenant.as_deref(), json).await
        }
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "presence-cloud", &mut text);
            // clap_complete 4.6 takes the hyphen of a name once for part of it and once for the beginning of a command: its bash script
            // would know nothing after the first word.
            let text = String::from_utf8_lossy(&text);
            let text = text.replace("presence__subcmd__cloud", "presence__cloud");
            let text = text.replace("api__subcmd__token", "api__token");
            let _ = std::io::stdout().write_all(text.as_bytes());
            Ok(())
        }
    }
}
