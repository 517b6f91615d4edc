//! The way to Microsoft: our credential, the sign-in, a token, and Graph.

use std::time::Duration;

use presence_bridge::clock::Clock;
use presence_bridge::cloud;
use presence_bridge::cloud::operations::view::{TenantDetail, operators_step};
use presence_bridge::cloud::store::{ConnectionKind, TenantRow, TenantStatus};
use presence_bridge::config::cloud::CloudConfig;
use presence_bridge::microsoft::{Ending, Entra, Graph, MicrosoftError, Recovery};
use presence_bridge::model::{Cause, HealthState, Timestamp, UserId};
use presence_bridge::secret::Secret;

use super::Hop;
use crate::output::{chain, time};

const CREDENTIAL: &str = "our credential";
const SIGN_IN: &str = "sign-in";
const TOKEN: &str = "token";
const GRAPH: &str = "graph";

/// When to say that something ends.
const SOON: Duration = Duration::from_hours(24 * 30);

/// A failure in Microsoft's words, and what to do.
fn failed(hop: &'static str, e: &MicrosoftError, host: &str, known: Option<&TenantDetail>) -> Hop {
    let why = |cause: &Cause| match cause.code.as_str() {
        "" => cause.text.clone(),
        code => format!("{} ({code})", cause.text),
    };
    match e.recovery() {
        Recovery::OurFault { cause, .. } => Hop::failed(hop, why(&cause), cause.remedy),
        Recovery::Reauthorize(cause) | Recovery::AskAdministrator(cause) => {
            // One remedy, whoever is asked: that of the service, if it has met this already.
            let health = known.map(|known| &known.line.health);
            let met = health.filter(|health| {
                [
                    HealthState::NeedsReauthorization,
                    HealthState::NeedsAdministrator,
                ]
                .iter()
                .any(|state| health.state == state.as_str())
            });
            let remedy = met.map_or_else(
                || operators_step(&cause.remedy),
                |health| health.remedy.clone(),
            );
            let why = format!("the customer is told: {}", why(&cause));
            Hop::failed(hop, why, remedy)
        }
        Recovery::Throttled { .. } => Hop::failed(
            hop,
            "Microsoft asks us to slow down",
            "wait; it passes by itself",
        ),
        _ => Hop::failed(
            hop,
            chain(e),
            format!(
                "look whether this machine reaches {host}: name resolution, firewall, its clock"
            ),
        ),
    }
}

/// All hops; after one that fails those that need it are not tried.
pub async fn hops(
    config: &CloudConfig,
    row: Option<&TenantRow>,
    known: Option<&TenantDetail>,
) -> Vec<Hop> {
    let setup = cloud::transport(config).and_then(|transport| {
        let entra = cloud::entra(config, transport.clone(), Clock::system())?;
        Ok((entra, Graph::new(transport, config.graph_url.clone())))
    });
    let mut hops = Vec::new();
    let (entra, graph) = match setup {
        Ok(parts) => parts,
        Err(e) => {
            let to_do = "mend what the configuration names under [microsoft]; presence-cloud check tries it";
            hops.push(Hop::failed(CREDENTIAL, chain(&e), to_do));
            return rest(hops, "without our credential nobody can sign in");
        }
    };
    hops.push(credential(&entra));
    if !hops[0].is_ok() {
        return rest(hops, "without our credential nobody can sign in");
    }
    let Some(row) = row else {
        return rest(
            hops,
            "no organisation is connected, or all are paused: presence-cloud tenant add",
        );
    };
    let host = config.login_url.host_str().unwrap_or_default();
    match entra.discover(&row.id.to_string()).await {
        Ok(_) => hops.push(Hop::ok(SIGN_IN, format!("{host} knows {}", row.name))),
        Err(e) => {
            hops.push(failed(SIGN_IN, &e, host, known));
            return rest(hops, "the sign-in failed");
        }
    }
    match row.connection {
        ConnectionKind::ServiceAccount if row.status != TenantStatus::Active => {
            let why = "nobody of it is read, so the service asks for none";
            hops.extend([TOKEN, GRAPH].map(|hop| Hop::not_tried(hop, why)));
        }
        ConnectionKind::ServiceAccount => hops.extend(by_service(known)),
        ConnectionKind::Organisation => match entra.app_token(row.id).await {
            Ok(access) => {
                hops.push(Hop::ok(TOKEN, "Microsoft gives us one"));
                hops.push(read(&graph, &access.secret, config, known).await);
            }
            Err(e) => {
                hops.push(failed(TOKEN, &e, host, known));
                return rest(hops, "there is no token");
            }
        },
    }
    hops
}

/// Those that were not tried, and why.
fn rest(mut hops: Vec<Hop>, why: &str) -> Vec<Hop> {
    for hop in [SIGN_IN, TOKEN, GRAPH].into_iter().skip(hops.len() - 1) {
        hops.push(Hop::not_tried(hop, why));
    }
    hops
}

/// Whether one of them is good. Those that end soon are named.
fn credential(entra: &Entra) -> Hop {
    let now: Timestamp = Clock::system().now();
    let all = entra.credentials();
    let told: Vec<String> = all
        .iter()
        .map(|one| match (one.ends, one.ending(now)) {
            (None, _) => format!("{one}, which does not tell its end"),
            (Some(ends), Ending::Ended) => format!("{one}, ENDED {}", time(ends)),
            (Some(ends), _) => format!("{one}, ends {}", time(ends)),
        })
        .collect();
    let told = told.join("; ");
    let next = "make a new one in Entra and add it under [microsoft], beside those that are there";
    if all.iter().all(|one| one.ending(now) == Ending::Ended) {
        return Hop::failed(CREDENTIAL, told, next);
    }
    let mut hop = Hop::ok(CREDENTIAL, told);
    let lasts = |ends: Option<Timestamp>| ends.is_none_or(|ends| now.until(ends) > SOON);
    if !all.iter().any(|one| lasts(one.ends)) {
        hop.to_do = next.into();
    }
    hop
}

/// One cheap call: somebody who does not exist.
async fn read(
    graph: &Graph,
    token: &Secret,
    config: &CloudConfig,
    known: Option<&TenantDetail>,
) -> Hop {
    let host = config.graph_url.host_str().unwrap_or_default();
    let nobody = [UserId(uuid::Uuid::new_v4())];
    match graph.presences(token, &nobody).await {
        Ok(_) => Hop::ok(GRAPH, format!("{host} lets us read presence")),
        // It let us in, and only did not like whom we made up.
        Err(e) if matches!(e.recovery(), Recovery::Split) => {
            Hop::ok(GRAPH, format!("{host} lets us read presence"))
        }
        Err(e) => failed(GRAPH, &e, host, known),
    }
}

/// What the running service knows: to try it here would spend the refresh token.
fn by_service(known: Option<&TenantDetail>) -> Vec<Hop> {
    let Some(known) = known else {
        let why = "to try it would use the service account's refresh token; start the service, which knows, and ask again";
        return vec![Hop::not_tried(TOKEN, why), Hop::not_tried(GRAPH, why)];
    };
    let (health, live) = (&known.line.health, known.line.live.as_ref());
    let token = match live.and_then(|l| l.token_ends_at) {
        Some(ends) if live.is_some_and(|l| l.renewals_failed == 0) => Hop::ok(
            TOKEN,
            format!("the service has one, good until {}", time(ends)),
        ),
        _ if health.cause.is_empty() => Hop::not_tried(
            TOKEN,
            "the service has not needed one yet; ask again in a minute",
        ),
        _ => Hop::failed(TOKEN, &health.cause, &health.remedy),
    };
    let graph = match (token.is_ok(), live.and_then(|l| l.last_read)) {
        (true, _) if !health.cause.is_empty() => Hop::failed(GRAPH, &health.cause, &health.remedy),
        (true, Some(at)) => Hop::ok(GRAPH, format!("the service last read at {}", time(at))),
        (true, None) => Hop::not_tried(GRAPH, "nobody is watched, so the service reads nobody"),
        (false, _) => Hop::not_tried(GRAPH, "there is no token"),
    };
    vec![token, graph]
}
