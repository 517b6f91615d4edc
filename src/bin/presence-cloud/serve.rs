//! The service itself.

use std::io::Write as _;

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
