//! Whether the service answers where it should, and how long the certificates last.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use presence_bridge::clock::Clock;
use presence_bridge::cloud::listener;
use presence_bridge::config::cloud::CloudConfig;
use presence_bridge::config::listeners::{InFront, ListenerConfig, TlsFiles};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use url::Url;

use super::{Hop, State};
use crate::output::time;
use crate::talk::{Ask, Service, certificates, client, here, refused};

/// Longest time for an answer of our own machine.
const ANSWER: Duration = Duration::from_secs(5);

/// A certificate that ends sooner is told.
const SOON: Duration = Duration::from_hours(24 * 14);

const START: &str = "start it (systemctl start presence-cloud, or presence-cloud serve); if it does not stay, its log says why";

pub async fn hops(config: &CloudConfig) -> Vec<Hop> {
    let mut hops = vec![grpc(config).await];
    if let Some(web) = &config.web {
        let tls = web.listener.tls.as_ref();
        let answer = pages(&web.listener, &web.public_url).await;
        hops.push(judged("listener: web", answer, tls));
    }
    hops.push(operators(config).await);
    hops
}

/// What an answer means, together with the certificate.
fn judged(hop: &'static str, answer: anyhow::Result<String>, tls: Option<&TlsFiles>) -> Hop {
    let mut told = match answer {
        Ok(told) => told,
        Err(e) => return Hop::failed(hop, format!("{e:#}"), START),
    };
    let Some(tls) = tls else {
        return Hop::ok(hop, told);
    };
    let renew = "renew the certificate; the service takes it over by itself within seconds";
    let ends = match listener::certificate_ends(&tls.certificate) {
        Ok(ends) => ends,
        Err(e) => return Hop::failed(hop, crate::output::chain(&e), renew),
    };
    let Some(ends) = ends else {
        return Hop::ok(
            hop,
            told + ", with a certificate that does not tell its end",
        );
    };
    let now = Clock::system().now();
    if ends <= now {
        let why = format!("its certificate has ended {}", time(ends));
        return Hop::failed(hop, why, renew);
    }
    told = format!("{told}, certificate ends {}", time(ends));
    let mut found = Hop::ok(hop, told);
    if now.until(ends) < SOON {
        found.to_do = renew.into();
    }
    found
}

/// The health service, as suites would reach it from here.
async fn grpc(config: &CloudConfig) -> Hop {
    let (address, tls) = (here(config.grpc.listen), config.grpc.tls.as_ref());
    let ask = async {
        if speaks_only_through_a_balancer(&config.grpc) {
            return knock(address).await;
        }
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))?
            .connect_timeout(ANSWER)
            .timeout(ANSWER);
        if let Some(tls) = tls {
            let pem = std::fs::read(&tls.certificate)
                .with_context(|| format!("cannot read {}", tls.certificate.display()))?;
            let host = config.grpc_public_url.host_str().unwrap_or_default();
            let trusted = ClientTlsConfig::new()
                .with_native_roots()
                .ca_certificate(Certificate::from_pem(pem))
                .domain_name(host);
            endpoint = endpoint.tls_config(trusted)?;
        }
        let channel = endpoint.connect().await;
        let channel = channel.with_context(|| format!("nothing answers at {address}"))?;
        let asked = HealthCheckRequest::default();
        let answer = HealthClient::new(channel).check(asked).await;
        let answer = answer.with_context(|| format!("what listens at {address} is not ours"))?;
        if answer.into_inner().status()
            != tonic_health::pb::health_check_response::ServingStatus::Serving
        {
            anyhow::bail!("{address} says that it does not serve");
        }
        Ok(format!("{address} serves"))
    };
    judged("listener: gRPC", ask.await, tls)
}

/// Whether who connects from here has to introduce somebody first.
fn speaks_only_through_a_balancer(listener: &ListenerConfig) -> bool {
    let here = here(listener.listen).ip();
    matches!(&listener.in_front, InFront::Balancer(trusted) if trusted.has(here))
}

/// Whether somebody opens.
async fn knock(address: SocketAddr) -> anyhow::Result<String> {
    let knock = tokio::time::timeout(ANSWER, tokio::net::TcpStream::connect(address)).await;
    knock
        .with_context(|| format!("{address} does not answer"))?
        .with_context(|| format!("nothing listens at {address}"))?;
    Ok(format!(
        "{address} accepts connections; what it answers is seen through the load balancer only"
    ))
}

async fn pages(listener: &ListenerConfig, public_url: &Url) -> anyhow::Result<String> {
    let (address, tls) = (here(listener.listen), listener.tls.as_ref());
    if speaks_only_through_a_balancer(listener) {
        return knock(address).await;
    }
    let host = public_url.host_str().unwrap_or_default();
    let (client, base) = match tls {
        Some(tls) => (
            client(certificates(&tls.certificate)?, Some((host, address)))?,
            format!("https://{host}:{}", address.port()),
        ),
        None => (client(Vec::new(), None)?, format!("http://{address}")),
    };
    let answer = client.get(base).timeout(ANSWER).send().await;
    match answer {
        Ok(answer) if !answer.status().is_server_error() => Ok(format!("{address} answers")),
        Ok(answer) => anyhow::bail!("{address} answers with {}", answer.status().as_u16()),
        Err(e) if refused(&e) => anyhow::bail!("nothing listens at {address}"),
        Err(e) => Err(e.without_url()).with_context(|| format!("{address} does not answer")),
    }
}

/// The operators' listener, and what it says of the whole service.
async fn operators(config: &CloudConfig) -> Hop {
    const HOP: &str = "listener: operators";
    let (address, tls) = (
        here(config.operators.listener.listen),
        config.operators.listener.tls.as_ref(),
    );
    let ask = Ask {
        json: true,
        url: None,
        token_file: None,
        ca_file: None,
    };
    let asked = async {
        let service = Service::of_config(config, &ask)?;
        let ready = service.probe("/readyz").await?;
        service.me().await?;
        Ok::<_, anyhow::Error>(ready)
    };
    let ready = match asked.await {
        Ok(ready) => ready,
        Err(e) => return judged(HOP, Err(e), tls),
    };
    let checks = ready["checks"].as_array().cloned().unwrap_or_default();
    let wrong: Vec<String> = checks
        .iter()
        .filter(|check| check["state"] != "ok")
        .map(|check| {
            let text = |name: &str| check[name].as_str().unwrap_or_default().to_owned();
            format!("{}: {}", text("name"), text("why"))
        })
        .collect();
    let told = match wrong.as_slice() {
        [] => format!("{address} answers and is ready"),
        wrong => format!("{address} answers, {}", wrong.join("; ")),
    };
    let mut hop = judged(HOP, Ok(told), tls);
    if ready["state"] == "failed" {
        hop.state = State::Failed;
        hop.to_do = "see the other hops; the service's log says more".into();
    }
    hop
}
