//! Our own accept loop: tonic and axum are mounted on it as services. Design decision 13.
//!
//! Limits from `security-and-faults.md` §4 and §5. The loop outlives every connection and every accept error.

mod activity;
mod addresses;
mod handshakes;
pub mod in_front;
mod paced;
mod tls;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

pub use activity::{Caller, admit, turned_away};
pub use addresses::Peer;
#[cfg(test)]
pub(super) use handshakes::quota as handshakes_quota;
pub use tls::{Look, Tls, TlsSetupError, certificate_ends};

use super::metrics::Connections;
use super::pulse::{Beat, TICK};
use crate::config::listeners::{InFront, ListenerConfig};
use activity::{Activity, Before, Turn};
use addresses::{Addresses, Entered};
use handshakes::Handshakes;
use paced::{Paced, Shared};

/// Longest TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Rest after an accept error such as "too many open files".
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// What is noticed of a listener while it serves. By default nobody notices.
#[derive(Clone, Default)]
pub struct Noticed {
    /// Its connections.
    pub connections: Connections,
    /// Beats as long as the loop accepts.
    pub beat: Beat,
}

/// How a listener serves.
#[derive(Clone)]
pub struct Settings {
    /// TLS; `None`: plain text.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// What stands in front of it.
    pub in_front: InFront,
    /// Most open connections.
    pub max_connections: usize,
    /// Most open connections of one address.
    pub connections_per_address: usize,
    /// What is under way is waited for so long in the end.
    pub grace: Duration,
}

impl Settings {
    /// As configured.
    pub fn new(config: &ListenerConfig, tls: Option<&Tls>, grace: Duration) -> Self {
        Self {
            tls: tls.map(Tls::config),
            in_front: config.in_front.clone(),
            max_connections: config.max_connections,
            connections_per_address: config.connections_per_address,
            grace,
        }
    }
}

/// HTTP with our limits.
fn http() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(32)
        .max_local_error_reset_streams(64)
        .max_pending_accept_reset_streams(20)
        .max_header_list_size(16 << 10)
        .max_frame_size(16 << 10)
        .max_send_buf_size(64 << 10)
        .initial_stream_window_size(64 << 10)
        .initial_connection_window_size(256 << 10)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(5))
        .max_headers(64)
        .max_buf_size(16 << 10);
    builder
}

/// What all connections of a listener share.
struct Door<S> {
    settings: Settings,
    acceptor: Option<TlsAcceptor>,
    http: auto::Builder<TokioExecutor>,
    service: S,
    addresses: Addresses,
    handshakes: Handshakes,
    stop: CancellationToken,
    counts: Connections,
}

/// Serves until `stop`, then waits a while for what is under way. Plain text is for loopback and for what terminates TLS in front.
pub async fn serve<S>(
    listener: TcpListener,
    settings: Settings,
    service: S,
    stop: CancellationToken,
    noticed: Noticed,
) where
    S: tower::Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
    let Noticed {
        connections: counts,
        beat,
    } = noticed;
    let (most, grace) = (settings.max_connections, settings.grace);
    let slots = Arc::new(Semaphore::new(most));
    let door = Arc::new(Door {
        acceptor: settings.tls.clone().map(TlsAcceptor::from),
        http: http(),
        service,
        addresses: Addresses::new(settings.connections_per_address),
        handshakes: Handshakes::default(),
        stop: stop.clone(),
        counts: counts.clone(),
        settings,
    });
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connections = JoinSet::new();
    let mut full = false;
    loop {
        let (socket, peer) = tokio::select! {
            () = stop.cancelled() => break,
            _ = ticks.tick() => {
                beat.beat();
                continue;
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => match accepted {
                Ok((socket, address)) => (socket, Peer(address.ip())),
                Err(error) => {
                    counts.failed.increment(1);
                    tracing::warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_REST).await;
                    continue;
                }
            },
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            counts.full.increment(1);
            // Once: strangers must not be able to fill the log.
            if !std::mem::replace(&mut full, true) {
                tracing::warn!(
                    connections = most,
                    "connections are refused: too many are open"
                );
            }
            continue;
        };
        if std::mem::take(&mut full) {
            tracing::info!("connections are accepted again");
        }
        let accepted = Instant::now();
        let introduced = match &door.settings.in_front {
            InFront::Balancer(trusted) => trusted.has(peer.0),
            InFront::Nothing | InFront::Proxy(_) => false,
        };
        if introduced {
            let door = Arc::clone(&door);
            connections.spawn(async move {
                let _slot = slot;
                door.introduced(socket, peer, accepted).await;
            });
        } else if let Some(place) = door.enter(peer) {
            let door = Arc::clone(&door);
            connections.spawn(async move {
                let budget = place.budget();
                let _place = (slot, place);
                door.welcome(socket, peer, accepted, budget).await;
            });
        }
    }
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(grace, all).await.is_err() {
        connections.shutdown().await;
    }
}

impl<S> Door<S>
where
    S: tower::Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
    /// A place for one more connection from there, if there is one.
    fn enter(&self, peer: Peer) -> Option<Entered> {
        // Everybody comes from the proxy.
        let place = if in_front::is_shared(&self.settings.in_front, peer) {
            Entered::for_nobody()
        } else if let Some(place) = self.addresses.enter(peer) {
            place
        } else {
            self.counts.per_address.increment(1);
            tracing::debug!("connection refused: too many from one address");
            return None;
        };
        if self.acceptor.is_some() && !self.handshakes.allow(peer) {
            self.counts.handshakes.increment(1);
            tracing::debug!("connection refused: too many at once");
            return None;
        }
        Some(place)
    }

    /// A connection of a balancer, which says first who is at the other end.
    async fn introduced(self: Arc<Self>, mut socket: TcpStream, balancer: Peer, accepted: Instant) {
        let introduced = in_front::introduced(&mut socket);
        let peer = match self.stop.run_until_cancelled(introduced).await {
            None => return,
            Some(Ok(introduced)) => introduced.map_or(balancer, Peer),
            Some(Err(error)) => {
                self.counts.introduction.increment(1);
                tracing::debug!(%error, "a load balancer was not understood");
                return;
            }
        };
        // What the balancer sends for itself counts for nobody.
        let place = if peer == balancer {
            Entered::for_nobody()
        } else {
            let Some(place) = self.enter(peer) else {
                return;
            };
            place
        };
        let budget = place.budget();
        let _place = place;
        self.welcome(socket, peer, accepted, budget).await;
    }

    /// Serves a connection to its end.
    async fn welcome(
        self: Arc<Self>,
        socket: TcpStream,
        peer: Peer,
        accepted: Instant,
        budget: Option<Arc<Shared>>,
    ) {
        self.counts.accepted.increment(1);
        let _open = OpenConnection::new(&self.counts);
        let _ = socket.set_nodelay(true);
        let activity = Arc::new(Activity::new(accepted));
        let socket = Paced::new(socket, Arc::clone(&activity), budget);
        match self.acceptor.clone() {
            None => self.converse(socket, peer, activity).await,
            Some(acceptor) => {
                let Some(stream) = handshake(&acceptor, socket, &self.stop).await else {
                    self.counts.handshake.increment(1);
                    return;
                };
                self.converse(stream, peer, activity).await;
            }
        }
    }

    /// Speaks HTTP. A connection is cut off when it stays a stranger's or too much was refused on it, and closed in an orderly way when
    /// nothing happens on it any more, or we stop.
    async fn converse<I>(self: Arc<Self>, stream: I, peer: Peer, activity: Arc<Activity>)
    where
        I: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let (door, seen) = (Arc::clone(&self), Arc::clone(&activity));
        let service = hyper::service::service_fn(move |request| {
            let (door, seen) = (Arc::clone(&door), Arc::clone(&seen));
            async move {
                let service = door.service.clone();
                activity::answer(service, request, peer, &door.settings.in_front, seen).await
            }
        });
        let connection = self.http.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let mut before = Before::default();
        // It wakes for itself: it is not asked again whenever something is said.
        let mut turns = FuturesUnordered::new();
        loop {
            if turns.is_empty() {
                turns.push(activity.next_turn(self.stop.clone(), before));
            }
            let turn = tokio::select! {
                outcome = connection.as_mut() => {
                    if let Err(error) = outcome {
                        tracing::debug!(%error, "a connection ended with an error");
                    }
                    return;
                }
                Some(turn) = turns.next() => turn,
            };
            match turn {
                Turn::StaysStranger => {
                    self.counts.stranger.increment(1);
                    tracing::debug!("a connection was closed on which nobody has shown who he is");
                    return;
                }
                Turn::Unwelcome => {
                    self.counts.unwelcome.increment(1);
                    tracing::debug!(
                        "a connection was closed on which too much was refused, or nothing read"
                    );
                    return;
                }
                Turn::Introduced => {
                    before.introduced = true;
                    self.handshakes.remember(peer);
                }
                Turn::Closes => {
                    before.closes = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// Counts as open until it is dropped.
struct OpenConnection(metrics::Gauge);

impl OpenConnection {
    fn new(counts: &Connections) -> Self {
        counts.open.increment(1.0);
        Self(counts.open.clone())
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// `None` when the peer is too slow, does not speak TLS, or we stop: one silent peer must not delay the end.
async fn handshake(
    acceptor: &TlsAcceptor,
    socket: Paced<TcpStream>,
    stop: &CancellationToken,
) -> Option<tokio_rustls::server::TlsStream<Paced<TcpStream>>> {
    let handshake = tokio::time::timeout(HANDSHAKE, acceptor.accept(socket));
    stop.run_until_cancelled(handshake).await?.ok()?.ok()
}

#[cfg(test)]
mod tests {
    use axum::body::Bytes;
    use tokio::time::Instant;

    use super::activity::{FIRST_REQUEST, IDLE};
    use super::*;

    type Client = hyper::client::conn::http2::SendRequest<Body>;

    fn plain() -> Settings {
        let config = ListenerConfig::plain(([127, 0, 0, 1], 0).into());
        Settings::new(&config, None, IDLE)
    }

    /// A listener whose `/in` admits and whose `/stream` does so too and never ends its answer; a client of it, and how long its
    /// connection lasts.
    async fn client() -> (JoinSet<()>, Client, tokio::task::JoinHandle<Duration>) {
        let routes = axum::Router::new()
            .route("/out", axum::routing::get(|| async { "out" }))
            .route(
                "/in",
                axum::routing::get(|request: axum::extract::Request| async move {
                    admit(request.extensions());
                    "in"
                }),
            )
            .route(
                "/stream",
                axum::routing::get(|request: axum::extract::Request| async move {
                    admit(request.extensions());
                    Body::from_stream(futures_util::stream::pending::<Result<Bytes, axum::Error>>())
                }),
            );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(serve(
            listener,
            plain(),
            routes,
            CancellationToken::new(),
            Noticed::default(),
        ));
        let socket = TcpStream::connect(address).await.unwrap();
        let (client, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
                .await
                .unwrap();
        let began = Instant::now();
        #[allow(clippy::disallowed_methods, reason = "awaited by the test")]
        let lasted = tokio::spawn(async move {
            let _ = connection.await;
            began.elapsed()
        });
        (serving, client, lasted)
    }

    async fn get(client: &mut Client, path: &str) -> http::Response<hyper::body::Incoming> {
        client.ready().await.unwrap();
        let request = http::Request::get(format!("http://cloud{path}"));
        let request = request.body(Body::empty()).unwrap();
        client.send_request(request).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_accepts_beats_and_one_that_hangs_does_not() {
        let pulse = crate::cloud::pulse::Pulse::default();
        let noticed = Noticed {
            beat: pulse.of("listener", crate::cloud::pulse::LATE),
            ..Noticed::default()
        };
        let late = || pulse.state()[0].1.is_some();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let routes = axum::Router::new();
        let serving = serve(listener, plain(), routes, CancellationToken::new(), noticed);
        tokio::pin!(serving);
        let a_while = Duration::from_mins(1);
        assert!(tokio::time::timeout(a_while, &mut serving).await.is_err());
        assert!(!late());
        // Nobody drives it: it hangs.
        tokio::time::sleep(a_while).await;
        assert!(late());
        assert!(tokio::time::timeout(a_while, &mut serving).await.is_err());
        assert!(!late(), "it goes on");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stranger_s_connection_is_closed_whatever_it_asks() {
        let (_serving, mut client, lasted) = client().await;
        get(&mut client, "/out").await;
        let lasted = lasted.await.unwrap();
        assert!(lasted >= FIRST_REQUEST && lasted < IDLE, "{lasted:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_at_rest_is_closed_and_one_with_a_stream_is_not() {
        let (_serving, mut client, lasted) = self::client().await;
        get(&mut client, "/in").await;
        let lasted = lasted.await.unwrap();
        assert!(lasted >= IDLE && lasted < IDLE * 2, "{lasted:?}");
        let (_serving, mut client, lasted) = self::client().await;
        let _response = get(&mut client, "/stream").await;
        let still_there = tokio::time::timeout(IDLE * 5, lasted).await;
        assert!(still_there.is_err());
    }
}
