//! What meets bytes from outside: each target takes any bytes, and says what must hold whatever they are.
//!
//! Driven by libFuzzer (`make fuzz`); the corpus it has found is replayed by the tests.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use presence_bridge::clock::Clock;
use presence_bridge::cloud::directory::LookupPace;
use presence_bridge::cloud::hub::mailbox::Parcel;
use presence_bridge::cloud::hub::{LookupOutcome, Opened, TenantHub};
use presence_bridge::cloud::listener::{Peer, in_front};
use presence_bridge::config::alerts::webhook_url;
use presence_bridge::config::cloud::CloudConfig;
use presence_bridge::config::listeners::{InFront, Trusted};
use presence_bridge::config::load::Loader;
use presence_bridge::microsoft::transport::TransportError;
use presence_bridge::microsoft::{AppCredential, Entra, Graph, HttpTransport, Limits};
use presence_bridge::model::{
    Epoch, Health, HealthState, Presence, SuiteId, TenantId, Timestamp, Upn, UserId,
};
use presence_bridge::secret::Secret;
use presence_bridge::wire::v1;
use prost::Message as _;
use url::Url;
use uuid::Uuid;

/// What takes any bytes.
pub type Target = fn(&[u8]);

/// Name and target.
pub const TARGETS: &[(&str, Target)] = &[
    ("presences", presences),
    ("lookup", lookup),
    ("token", token),
    ("config", config),
    ("introduction", introduction),
    ("watch_requests", watch_requests),
    ("watch_lists", watch_lists),
];

/// Answers everything with the same bytes. The first byte chooses the status.
struct Says(Bytes);

#[async_trait]
impl HttpTransport for Says {
    async fn send(&self, _: Request<Bytes>, _: Limits) -> Result<Response<Bytes>, TransportError> {
        const STATUS: [u16; 8] = [200, 200, 200, 400, 401, 403, 429, 503];
        let (first, body) = (
            self.0.first().copied().unwrap_or(0),
            self.0.slice(self.0.len().min(1)..),
        );
        Response::builder()
            .status(STATUS[usize::from(first % 8)])
            .header("content-type", "application/json")
            .body(body)
            .map_err(|_| TransportError::Invalid)
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(work)
}

fn url(text: &str) -> Url {
    Url::parse(text).expect("a URL")
}

fn graph(data: &[u8]) -> Graph {
    Graph::new(
        Arc::new(Says(Bytes::copy_from_slice(data))),
        url("https://graph.example"),
    )
}

/// Nobody is told about who was not asked for.
fn presences(data: &[u8]) {
    let ids = [0xaaaa_u128, 0xbbbb, 0xcccc].map(|n| UserId(Uuid::from_u128(n << 64 | n)));
    match block_on(graph(data).presences(&Secret::new("token"), &ids)) {
        Ok(found) => assert!(found.keys().all(|id| ids.contains(id))),
        Err(e) => assert!(!e.to_string().is_empty()),
    }
}

/// Every name is found, not found or failed, once, and no other.
fn lookup(data: &[u8]) {
    let upns: Vec<Upn> = [
        "adele.vance@contoso.example",
        "b@contoso.example",
        "c'd@contoso.example",
    ]
    .iter()
    .filter_map(|name| Upn::parse(name).ok())
    .collect();
    let Ok(found) = block_on(graph(data).lookup(&Secret::new("token"), &upns)) else {
        return;
    };
    let failed = found.failed.iter().flat_map(|(upns, _)| upns);
    let all = found
        .found
        .iter()
        .map(|(upn, _)| upn)
        .chain(&found.not_found)
        .chain(failed);
    let mut all: Vec<&Upn> = all.collect();
    all.sort();
    let mut asked: Vec<&Upn> = upns.iter().collect();
    asked.sort();
    assert_eq!(all, asked);
}

/// An answer that is no token is an error with words, and no word of it is a secret we have sent.
fn token(data: &[u8]) {
    let says = Arc::new(Says(Bytes::copy_from_slice(data)));
    let credential = AppCredential::Secret(Secret::new("our-own-client-secret"));
    let (login, graph) = (url("https://login.example"), url("https://graph.example"));
    let client = Uuid::from_u128(7);
    let Ok(entra) = Entra::new(says, login, graph, client, credential, Clock::system()) else {
        return;
    };
    if let Err(e) = block_on(entra.app_token(TenantId(Uuid::from_u128(9)))) {
        let _ = e.recovery();
        assert!(!format!("{e} {e:?}").contains("our-own-client-secret"));
    }
}

/// A configuration is read, or every problem has words.
fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let _ = webhook_url(text);
    let loaded =
        Loader::from_text("cloud.toml", text, "FUZZ", []).and_then(CloudConfig::from_loader);
    if let Err(e) = loaded {
        assert!(!e.to_string().is_empty());
    }
}

/// Nobody but a trusted proxy names the caller, and nobody is made one of the trusted.
fn introduction(data: &[u8]) {
    let _ = in_front::parse(data);
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        if let Ok(value) = http::HeaderValue::from_bytes(line) {
            headers.append("x-forwarded-for", value);
        }
    }
    let proxies = Trusted::this_machine();
    let (proxy, stranger) = (Peer([127, 0, 0, 1].into()), Peer([192, 0, 2, 1].into()));
    let in_front = InFront::Proxy(proxies.clone());
    assert_eq!(in_front::caller(&in_front, stranger, &headers), stranger);
    let caller = in_front::caller(&in_front, proxy, &headers);
    assert!(caller == proxy || !proxies.has(caller.0));
}

/// What can be read as a message is written and read again as the same.
fn watch_requests(data: &[u8]) {
    if let Ok(request) = v1::WatchRequest::decode(data) {
        let again = v1::WatchRequest::decode(&request.encode_to_vec()[..]);
        assert_eq!(again.ok().as_ref(), Some(&request));
    }
}

const NAMES: [&str; 6] = [
    "a@contoso.example",
    "b@contoso.example",
    "C@contoso.example",
    "c@contoso.example",
    "no upn",
    "d@contoso.example",
];

fn account(name: &str) -> UserId {
    let letter = name
        .as_bytes()
        .first()
        .copied()
        .unwrap_or(0)
        .to_ascii_lowercase();
    UserId(Uuid::from_u128(u128::from(letter)))
}

/// One stream as it should be.
struct Model {
    opened: Opened,
    /// Watched UPNs in lower case, as the suite wrote them.
    watched: BTreeMap<String, String>,
}

/// Two suites change their watch lists while answers come, in any order. What is counted is what a simple model says, and no suite is
/// told about somebody it has never asked for.
fn watch_lists(data: &[u8]) {
    let now = Timestamp::from_secs(1_800_000_000);
    let health = Health {
        state: HealthState::Connected,
        cause: None,
        since: now,
    };
    let mut hub = TenantHub::new(Epoch(1), LookupPace::default(), health);
    let nobody = |_: &Upn| None;
    let open = |hub: &mut TenantHub| Model {
        opened: hub.open(SuiteId::random(), 50, &[], None, &nobody, now),
        watched: BTreeMap::new(),
    };
    let mut streams = [open(&mut hub), open(&mut hub)];
    let mut ever: [BTreeSet<String>; 2] = [BTreeSet::new(), BTreeSet::new()];
    for op in data.chunks_exact(2).take(200) {
        let which = usize::from(op[0] >> 7);
        let names: Vec<String> = NAMES
            .iter()
            .enumerate()
            .filter(|(n, _)| op[1] & (1 << n) != 0)
            .map(|(_, name)| (*name).to_owned())
            .collect();
        let upns: Vec<(String, String)> = names
            .iter()
            .filter(|name| Upn::parse(name).is_ok())
            .map(|name| (name.to_lowercase(), name.clone()))
            .collect();
        let id = streams[which].opened.id;
        let stream = &mut streams[which];
        match op[0] % 7 {
            0 => {
                hub.add(id, &names, &nobody, now);
                for (key, name) in upns {
                    ever[which].insert(key.clone());
                    stream.watched.entry(key).or_insert(name);
                }
            }
            1 => {
                hub.remove(id, &names, &nobody, now);
                stream
                    .watched
                    .retain(|key, _| !upns.iter().any(|(gone, _)| gone == key));
            }
            2 => {
                hub.replace(id, &names, &nobody, now);
                ever[which].extend(upns.iter().map(|(key, _)| key.clone()));
                stream.watched = upns.into_iter().collect();
            }
            3 => {
                hub.close(id, &nobody, now);
                *stream = open(&mut hub);
                ever[which].clear();
            }
            4 => {
                let asked = hub.take_lookups(now, 20);
                let (found, not_found) =
                    asked.into_iter().partition::<Vec<_>, _>(|_| op[1] % 3 != 0);
                let outcome = LookupOutcome {
                    found: found
                        .into_iter()
                        .map(|upn| (upn.clone(), account(upn.as_str())))
                        .collect(),
                    not_found,
                    ..LookupOutcome::default()
                };
                hub.apply_lookup(outcome, now);
            }
            5 => {
                let asked = hub.to_read(now, false);
                let word = ["Busy", "Away", "Available"][usize::from(op[1] % 3)];
                let presence = Presence::from_microsoft(Some(word), Some(word));
                let answer = asked.iter().map(|user| (*user, presence.clone())).collect();
                hub.apply_readings(&asked, answer, now, now);
                hub.finish_sweep(now, now);
            }
            _ => {
                while let Some(parcel) = stream.opened.mailbox.take() {
                    if let Parcel::Values { values, .. } = parcel.unpacked() {
                        for value in values {
                            let key = value.asked.to_lowercase();
                            assert!(ever[which].contains(&key), "{key} was never asked for");
                        }
                    }
                }
            }
        }
        let all: BTreeSet<&String> = streams.iter().flat_map(|s| s.watched.keys()).collect();
        assert_eq!(hub.count().watched, all.len());
        assert!(hub.to_read(now, false).len() <= all.len());
    }
}
