//! Whether the service of this machine can serve: `/readyz` of the operators' listener, for who has no other program to ask with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail};
use presence_bridge::config::cloud::CloudConfig;

use super::output::say;

/// Longest time for the whole exchange: shorter than probes wait.
const TIMEOUT: Duration = Duration::from_secs(4);

/// An address that can be connected to.
fn reachable(mut listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() {
        listen.set_ip(match listen.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    listen
}

pub async fn ready(config: &CloudConfig) -> anyhow::Result<()> {
    let operators = &config.operators;
    let address = reachable(operators.listen);
    let mut builder = reqwest::Client::builder()
        .timeout(TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy();
    // The service itself is asked, whatever its name leads to; its own certificate is trusted, for the name it is used under.
    let url = if let Some(tls) = &operators.tls {
        let file = tls.certificate.display();
        let pem = std::fs::read(&tls.certificate).with_context(|| format!("cannot read {file}"))?;
        let own = reqwest::Certificate::from_pem_bundle(&pem)
            .with_context(|| format!("cannot read {file}"))?;
        builder = builder.tls_certs_merge(own);
        let mut url = operators.public_url.clone();
        if let Some(name) = url.domain() {
            builder = builder.resolve(name, address);
        }
        // An origin with a host takes a port.
        let _ = url.set_port(Some(address.port()));
        url.join("/readyz")?
    } else {
        format!("http://{address}/readyz").parse()?
    };
    let client = builder.build().context("TLS cannot be set up")?;
    let answer = client
        .get(url)
        .send()
        .await
        .with_context(|| format!("{address} does not answer; is presence-cloud serving?"))?;
    let status = answer.status();
    let report = answer.text().await.unwrap_or_default();
    say(&report);
    if !status.is_success() {
        bail!("not ready: {address} answered {status}");
    }
    Ok(())
}
