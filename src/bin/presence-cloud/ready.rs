//! Whether the service of this machine can serve: `/readyz` of the operators' listener, for who has no other program to ask with.

use std::time::Duration;

use anyhow::{Context as _, bail};
use presence_bridge::config::cloud::CloudConfig;

use super::output::say;
use super::talk::operators;

/// Longest time for the whole exchange: shorter than probes wait.
const TIMEOUT: Duration = Duration::from_secs(4);

pub async fn ready(config: &CloudConfig) -> anyhow::Result<()> {
    let (client, base) = operators(config, None)?;
    let at = base.origin().ascii_serialization();
    let asked = client.get(base.join("/readyz")?).timeout(TIMEOUT).send();
    let answer = asked
        .await
        .map_err(reqwest::Error::without_url)
        .with_context(|| format!("{at} does not answer; is presence-cloud serving?"))?;
    let status = answer.status();
    say(&answer.text().await.unwrap_or_default());
    if !status.is_success() {
        bail!("not ready: {at} answered {status}");
    }
    Ok(())
}
