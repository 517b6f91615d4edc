//! Suites at the level of the contract: they read, and note when what came.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use presence_bridge::wire::v1;
use presence_bridge::wire::v1::presence_service_client::PresenceServiceClient;
use presence_bridge::wire::v1::watch_response::Response as Down;
use tokio::task::JoinSet;
use tonic::Request;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::process::now_us;
use crate::streams::{Opening, Ready};

/// When changes came over one stream, and how many in one message.
pub type Received = Arc<Mutex<Vec<(u64, usize)>>>;

/// Open streams.
pub struct Clients {
    pub received: Vec<Received>,
    reading: JoinSet<()>,
}

impl Clients {
    /// Opens so many of them, each over its own connection, and waits until they hold everything.
    pub async fn open(ready: &Ready, streams: usize, product: bool) -> anyhow::Result<Self> {
        let mut clients = Self {
            received: Vec::new(),
            reading: JoinSet::new(),
        };
        for openings in ready.openings[..streams].chunks(50) {
            let opened = openings
                .iter()
                .map(|opening| until_let_in(ready, opening, product));
            for mut stream in futures_util::future::try_join_all(opened).await? {
                let received = Received::default();
                clients.received.push(Arc::clone(&received));
                clients.reading.spawn(async move {
                    while let Ok(Some(message)) = stream.0.message().await {
                        if let Some(Down::Presences(presences)) = message.response {
                            let mut all = received.lock().unwrap_or_else(PoisonError::into_inner);
                            all.push((now_us(), presences.presences.len()));
                        }
                    }
                    drop(stream.1);
                });
            }
        }
        Ok(clients)
    }

    /// Forgets what has come so far.
    pub fn forget(&self) {
        for received in &self.received {
            received
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clear();
        }
    }

    /// What has come since, of each stream.
    pub fn received(&self) -> Vec<Vec<(u64, usize)>> {
        let all = self.received.iter();
        all.map(|one| one.lock().unwrap_or_else(PoisonError::into_inner).clone())
            .collect()
    }

    /// Waits until each stream has so many changes, or nothing more comes.
    pub async fn settle(&self, each: usize) {
        for _ in 0..200 {
            let came = self.received();
            let all = came
                .iter()
                .all(|one| one.iter().map(|(_, n)| n).sum::<usize>() >= each);
            if all {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A connection to the server.
pub fn channel(url: &str, ca: Option<&Path>) -> anyhow::Result<Channel> {
    let mut endpoint = Endpoint::from_shared(url.to_owned())?.tcp_nodelay(true);
    if let Some(ca) = ca {
        let ca = Certificate::from_pem(std::fs::read(ca)?);
        endpoint = endpoint.tls_config(
            ClientTlsConfig::new()
                .ca_certificate(ca)
                .domain_name("127.0.0.1"),
        )?;
    }
    Ok(endpoint.connect_lazy())
}

type Stream = (
    tonic::Streaming<v1::WatchResponse>,
    tokio::sync::mpsc::Sender<v1::WatchRequest>,
);

/// When many come at once, some have to come again.
async fn until_let_in(ready: &Ready, opening: &Opening, product: bool) -> anyhow::Result<Stream> {
    let mut tries = 0;
    loop {
        match open(ready, opening, product).await {
            Err(_) if tries < 200 => tries += 1,
            opened => return opened,
        }
        tokio::time::sleep(Duration::from_millis(fastrand::u64(50..150))).await;
    }
}

async fn open(ready: &Ready, opening: &Opening, product: bool) -> anyhow::Result<Stream> {
    let (up, waiting) = tokio::sync::mpsc::channel(8);
    let lists: Vec<_> = opening.watch.chunks(1000).map(<[String]>::to_vec).collect();
    let mut lists = lists.into_iter();
    let first = v1::watch_request::Request::Open(v1::Open {
        protocol_version: 1,
        agent_version: "bench".into(),
        watch: lists.next().unwrap_or_default(),
        continued_in_adds: u32::try_from(lists.len())?,
        ..v1::Open::default()
    });
    let more = lists.map(|upns| v1::watch_request::Request::Add(v1::AddWatched { upns }));
    for request in std::iter::once(first).chain(more) {
        let request = Some(request);
        up.send(v1::WatchRequest { request }).await?;
    }
    let mut request = Request::new(tokio_stream::wrappers::ReceiverStream::new(waiting));
    request
        .metadata_mut()
        .insert("authorization", opening.bearer.parse()?);
    let mut client = PresenceServiceClient::new(channel(&ready.url, ready.ca.as_deref())?);
    let mut down = client.watch(request).await?.into_inner();
    if product {
        loop {
            let message = down.message().await?.context("a stream ended")?;
            if matches!(message.response, Some(Down::Presences(p)) if p.snapshot_complete) {
                break;
            }
        }
    }
    Ok((down, up))
}
