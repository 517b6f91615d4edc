//! How suites fare while somebody attacks: the delay from an answer to the suite, undisturbed and under attack, in the same process.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use presence_bridge::wire::v1;
use presence_bridge::wire::v1::presence_service_client::PresenceServiceClient;
use tokio::runtime::Runtime;
use tonic::Request;
use tonic::transport::Channel;

use crate::attacks::{FLOODS, RESETS, strike};
use crate::delivery::{Server, at};
use crate::process::resident_bytes;
use crate::streams::{Opening, Setup};
use crate::table::Row;

/// Suites that are there; two more have credentials and mean harm.
const STREAMS: usize = 10;

/// Frames of one attack; then the attacker connects anew.
const FRAMES: u32 = 50_000;

/// Between two connections of an attacker.
const BREATH: Duration = Duration::from_millis(50);

const ANSWERS_PER_SECOND: usize = 20;

/// Opens a stream, as whoever has this credential.
async fn stream(
    url: &str,
    opening: &Opening,
    window: Option<u32>,
) -> anyhow::Result<(
    tonic::Streaming<v1::WatchResponse>,
    tokio::sync::mpsc::Sender<v1::WatchRequest>,
)> {
    let (up, waiting) = tokio::sync::mpsc::channel(8);
    let open = v1::Open {
        protocol_version: 1,
        watch: opening.watch.clone(),
        ..v1::Open::default()
    };
    let request = Some(v1::watch_request::Request::Open(open));
    up.send(v1::WatchRequest { request }).await?;
    let mut request = Request::new(tokio_stream::wrappers::ReceiverStream::new(waiting));
    request
        .metadata_mut()
        .insert("authorization", opening.bearer.parse()?);
    let mut endpoint = Channel::from_shared(url.to_owned())?;
    if let Some(window) = window {
        endpoint = endpoint.initial_stream_window_size(window);
    }
    let mut client = PresenceServiceClient::new(endpoint.connect_lazy());
    Ok((client.watch(request).await?.into_inner(), up))
}

/// A watch list that never rests.
async fn restless(url: &str, opening: &Opening) -> anyhow::Result<()> {
    let (mut down, up) = stream(url, opening, None).await?;
    let flips = async {
        for nth in 0_usize.. {
            let upns = if nth % 2 == 0 {
                Vec::new()
            } else {
                opening.watch.clone()
            };
            let request = Some(v1::watch_request::Request::Replace(v1::ReplaceWatched {
                upns,
            }));
            up.send(v1::WatchRequest { request }).await?;
        }
        Ok(())
    };
    let reading = async {
        while down.message().await?.is_some() {}
        Ok(())
    };
    tokio::select! {
        ended = flips => ended,
        ended = reading => ended,
    }
}

/// Reads nothing, for ever.
async fn deaf(url: &str, opening: &Opening) -> anyhow::Result<()> {
    let _stream = stream(url, opening, Some(1024)).await?;
    std::future::pending().await
}

/// Everything one after the other, each beside its own quiet time.
pub fn siege(runtime: &Runtime, seconds: usize, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let setup = Setup {
        streams: STREAMS + 2,
        people: 500,
        watched: 500,
        tls: false,
    };
    let mut server = Server::start_some(runtime, "product", setup, STREAMS)?;
    let url = server.ready.url.clone();
    let address: SocketAddr = url.rsplit('/').next().context("an address")?.parse()?;
    let mut harmful = server.ready.openings.split_off(STREAMS);
    let (deaf_one, restless_one) = (harmful.remove(0), harmful.remove(0));
    let answers = seconds * ANSWERS_PER_SECOND;
    server.run(runtime, ANSWERS_PER_SECOND, 50_000, 10)?;
    let mut attacked = |name: &str, attack: futures_util::future::BoxFuture<'static, ()>| {
        let quiet = server.run(runtime, answers, 50_000, 10)?;
        let memory = resident_bytes(server.part.pid())?;
        let attacking = runtime.spawn(attack);
        let loud = server.run(runtime, answers, 50_000, 10)?;
        let ended = attacking.is_finished();
        attacking.abort();
        let grown = (resident_bytes(server.part.pid())? - memory) / f64::from(1 << 20);
        anyhow::ensure!(!ended, "the attack {name} ended too early");
        anyhow::ensure!(
            quiet.delivered == loud.delivered,
            "under attack ({name}) changes were lost"
        );
        for (part, which) in [(0.5, "p50"), (0.99, "p99")] {
            rows.push(Row::at_most(
                format!(
                    "change → client, {which}, under attack: {name}; memory grown by {grown:.1} MiB"
                ),
                "µs",
                at(&quiet.latencies, part),
                at(&loud.latencies, part),
                2.0,
            ));
        }
        anyhow::Ok(())
    };
    for attack in RESETS.iter().chain(FLOODS) {
        // Made once: it is not the attacker's work that is measured.
        let bytes = (attack.bytes)(FRAMES);
        let flood = async move {
            loop {
                strike(address, &bytes).await;
                tokio::time::sleep(BREATH).await;
            }
        };
        attacked(attack.name, Box::pin(flood))?;
    }
    let to = url.clone();
    let flips = async move {
        loop {
            let _ = restless(&to, &restless_one).await;
            tokio::time::sleep(BREATH).await;
        }
    };
    attacked("a watch list that never rests", Box::pin(flips))?;
    let silent = async move {
        loop {
            let _ = deaf(&url, &deaf_one).await;
            tokio::time::sleep(BREATH).await;
        }
    };
    attacked("a reader that stops for ever", Box::pin(silent))
}
