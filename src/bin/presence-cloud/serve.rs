//! The service itself.

use std::fs::{File, TryLockError};
use std::io::Write as _;
use std::path::Path;

use anyhow::bail;
use presence_bridge::cloud::{Cloud, Parts};
use presence_bridge::config::cloud::CloudConfig;
use presence_bridge::telemetry;
use tokio_util::sync::CancellationToken;

pub async fn serve(config: CloudConfig) -> anyhow::Result<()> {
    if !config.key_file.exists() {
        bail!(
            "the key file {} is not there; if there is a database already, put your copy of the file back, else make it with: \
             presence-cloud keys create",
            config.key_file.display()
        );
    }
    let _alone = alone(&config.database)?;
    let traces = config.traces.clone();
    let traces =
        telemetry::init_with_traces(config.log_format, &config.log_filter, traces.as_ref())?;
    let outcome = serve_until_interrupted(config).await;
    traces.stop().await;
    outcome
}

/// Two that serve from one database would contradict each other. Held until it is dropped; the system lets go of it, however we end.
fn alone(database: &Path) -> anyhow::Result<Option<File>> {
    let mut name = database.as_os_str().to_owned();
    name.push("-serving");
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    // A folder that is missing, or not ours, is told better by what opens the database.
    let Ok(file) = options.open(&name) else {
        return Ok(None);
    };
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => bail!(
            "another presence-cloud serves from {} already; stop it first, or give this one a database of its own",
            database.display()
        ),
        // Some file systems cannot lock.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(Some(file)),
    }
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
