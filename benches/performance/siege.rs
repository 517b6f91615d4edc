//! How suites fare while somebody attacks: the delay from an answer to the suite, undisturbed and under attack, in the same process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::BoxFuture;
use presence_bridge::wire::v1;
use presence_bridge::wire::v1::presence_service_client::PresenceServiceClient;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tonic::Request;
use tonic::transport::Channel;

use crate::attacks::{FLOODS, RESETS};
use crate::delivery::{Server, at};
use crate::frames::Wire;
use crate::process::resident_bytes;
use crate::streams::{Opening, Setup};
use crate::table::Row;

/// Streams of suites that are there. Two suites more have credentials and mean harm: a suite has four streams.
const STREAMS: usize = 8;
const HARMFUL: [usize; 2] = [STREAMS, STREAMS + 4];

/// Connections of an attacker at the same time: as many as one address may begin in a second.
const ATTACKERS: usize = 20;

/// Frames of one attack; then the attacker connects anew.
const FRAMES: u32 = 50_000;

/// Between two connections of an attacker.
const BREATH: Duration = Duration::from_millis(50);

/// Many, so that the 99th part of the delays is not the one worst moment.
const ANSWERS_PER_SECOND: usize = 100;
const APART_US: u64 = 10_000;

/// The same attack on somebody else on this machine, who throws away what comes: what the attackers' own work does.
const NOT_OURS: &str = "none; the attackers strike a socket that throws it all away";

/// Changes in each answer.
const CHANGES: usize = 4;

/// By how many bytes the service's memory has grown at most while it was attacked.
static MOST: AtomicU64 = AtomicU64::new(0);

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

/// A watch list that never rests. Each change of it is a blow.
async fn restless(url: &str, opening: &Opening, blows: &AtomicUsize) -> anyhow::Result<()> {
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
            blows.fetch_add(1, Ordering::Relaxed);
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
async fn deaf(url: &str, opening: &Opening, blows: &AtomicUsize) -> anyhow::Result<()> {
    let _stream = stream(url, opening, Some(1024)).await?;
    blows.fetch_add(1, Ordering::Relaxed);
    std::future::pending().await
}

/// The same frames over one connection after the other. Each connection is a blow.
async fn flood(address: SocketAddr, bytes: Arc<[u8]>, blows: Arc<AtomicUsize>) {
    loop {
        let mut wire = Wire::greet(address).await;
        blows.fetch_add(1, Ordering::Relaxed);
        if wire.say(&bytes).await.is_ok() {
            wire.ended().await;
        }
        tokio::time::sleep(BREATH).await;
    }
}

/// All attackers.
fn floods(
    address: SocketAddr,
    bytes: &Arc<[u8]>,
    blows: &Arc<AtomicUsize>,
) -> Vec<BoxFuture<'static, ()>> {
    let one = |_| -> BoxFuture<'static, ()> {
        Box::pin(flood(address, Arc::clone(bytes), Arc::clone(blows)))
    };
    (0..ATTACKERS).map(one).collect()
}

/// Takes in what may come at once of a stranger, throws it away, and closes: what an attack costs the machine whoever is attacked.
async fn sink(listener: TcpListener) {
    const AT_ONCE: u64 = 96 << 10;
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        connections.spawn(async move {
            let _ = tokio::io::copy(&mut socket.take(AT_ONCE), &mut tokio::io::sink()).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Everything one after the other, each beside its own quiet time.
pub fn siege(runtime: &Runtime, seconds: usize, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let setup = Setup {
        streams: HARMFUL[1] + 1,
        people: 500,
        watched: 500,
        tls: false,
    };
    let mut server = Server::start_some(runtime, "product", setup, STREAMS)?;
    let url = server.ready.url.clone();
    let address: SocketAddr = url.rsplit('/').next().context("an address")?.parse()?;
    let [deaf_one, restless_one] =
        HARMFUL.map(|nth| std::mem::take(&mut server.ready.openings[nth]));
    let answers = seconds * ANSWERS_PER_SECOND;
    server.run(runtime, ANSWERS_PER_SECOND, APART_US, CHANGES)?;
    let blows = Arc::new(AtomicUsize::new(0));
    let mut attacked = |name: &str, attacks: Vec<BoxFuture<'static, ()>>| {
        let quiet = server.run(runtime, answers, APART_US, CHANGES)?;
        let (pid, before) = (server.part.pid(), resident_bytes(server.part.pid())?);
        blows.store(0, Ordering::Relaxed);
        let watching = runtime.spawn(async move {
            let mut most = before;
            loop {
                tokio::time::sleep(Duration::from_millis(20)).await;
                most = resident_bytes(pid).map_or(most, |now| now.max(most));
                MOST.store((most - before).max(0.0).to_bits(), Ordering::Relaxed);
            }
        });
        let attacking: Vec<_> = attacks.into_iter().map(|one| runtime.spawn(one)).collect();
        let loud = server.run(runtime, answers, APART_US, CHANGES)?;
        for task in attacking.iter().chain([&watching]) {
            task.abort();
        }
        let grown = f64::from_bits(MOST.load(Ordering::Relaxed)) / f64::from(1 << 20);
        let struck = blows.load(Ordering::Relaxed);
        anyhow::ensure!(struck > 0, "the attack {name} did not take place");
        anyhow::ensure!(
            quiet.delivered == loud.delivered,
            "under attack ({name}) changes were lost"
        );
        for (part, which) in [(0.5, "p50"), (0.99, "p99")] {
            let what = format!(
                "change → client, {which}, under attack: {name}; memory grown by {grown:.1} MiB"
            );
            let (quiet, loud) = (at(&quiet.latencies, part), at(&loud.latencies, part));
            rows.push(if name == NOT_OURS {
                Row::beside(what, "µs", quiet, loud)
            } else {
                Row::at_most(what, "µs", quiet, loud, 2.0)
            });
        }
        anyhow::Ok(())
    };
    let thrown_away = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let elsewhere = thrown_away.local_addr()?;
    let sink = runtime.spawn(sink(thrown_away));
    let bytes: Arc<[u8]> = (FLOODS[0].bytes)(FRAMES).into();
    attacked(NOT_OURS, floods(elsewhere, &bytes, &blows))?;
    sink.abort();
    for attack in RESETS.iter().chain(FLOODS) {
        // Made once: it is not the attacker's work that is measured.
        let bytes = (attack.bytes)(FRAMES);
        let bytes: Arc<[u8]> = bytes.into();
        attacked(attack.name, floods(address, &bytes, &blows))?;
    }
    let (to, seen) = (url.clone(), Arc::clone(&blows));
    let flips = async move {
        loop {
            let _ = restless(&to, &restless_one, &seen).await;
            tokio::time::sleep(BREATH).await;
        }
    };
    attacked("a watch list that never rests", vec![Box::pin(flips)])?;
    let seen = Arc::clone(&blows);
    let silent = async move {
        loop {
            let _ = deaf(&url, &deaf_one, &seen).await;
            tokio::time::sleep(BREATH).await;
        }
    };
    attacked("a reader that stops for ever", vec![Box::pin(silent)])
}
