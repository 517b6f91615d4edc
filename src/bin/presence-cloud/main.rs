//! presence-cloud: the multi-tenant service.
//!
//! A command is a variant of [`Command`] and a line in [`run`]; what it does is in a file of its own.

mod backup;
mod check;
mod keys;
mod operators;
mod output;
mod ready;
mod serve;
mod suite;
mod tenant;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::anyhow;
use clap::{Parser, Subcommand};
use presence_bridge::config::cloud::CloudConfig;

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
    #[command(subcommand)]
    Tenant(tenant::Tenant),
    /// Suites: the phone systems that receive presence.
    #[command(subcommand)]
    Suite(suite::Suite),
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
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => return output::failed(&anyhow!(e)),
    };
    match runtime.block_on(run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => output::failed(&e),
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let config = CloudConfig::read(&cli.config).map_err(|e| anyhow!("{e}"))?;
    match cli.command {
        Command::Serve => serve::serve(config).await,
        Command::Check { offline } => check::check(&cli.config, config, offline).await,
        Command::Ready => ready::ready(&config).await,
        Command::Keys(command) => keys::keys(&config, &command).await,
        Command::Tenant(command) => tenant::tenant(config, command).await,
        Command::Suite(command) => suite::suite(config, command).await,
        Command::Operators(operators::Operators::Password { replace }) => {
            operators::operators_password(&config, replace)
        }
        Command::Backup { target } => backup::backup(&config, &target).await,
        Command::Restore { file } => backup::restore(&config, &file).await,
    }
}
