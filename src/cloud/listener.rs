//! Our own accept loop: tonic and axum are mounted on it as services. Design decision 13.
//!
//! Limits from `security-and-faults.md` §4 and §5. The loop outlives every connection and every accept error.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulConnection;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::metrics::Connections;
use super::pulse::{Beat, TICK};

/// Most open connections.
const MAX_CONNECTIONS: usize = 20_000;

/// Longest TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// A connection on which nobody has shown by then who he is is closed: strangers must not take the place of suites.
const FIRST_REQUEST: Duration = Duration::from_secs(10);

/// A connection on which nothing is asked and nothing is answered for this long is closed.
const IDLE: Duration = Duration::from_mins(5);

/// Open connections of one address.
const MAX_PER_ADDRESS: usize = 200;

/// Connections of one address accepted per second in the long run, and at once.
const ACCEPTS_PER_SECOND: NonZeroU32 = NonZeroU32::new(20).unwrap();
const ACCEPTS_AT_ONCE: NonZeroU32 = NonZeroU32::new(100).unwrap();

/// With more addresses remembered than this, those that are at rest are forgotten.
const ADDRESSES_KEPT: usize = 10_000;

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

/// Who is at the other end; in the extensions of every request.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

impl Peer {
    /// Under which address it is counted: that of its network, where a host has a whole network to choose from. `None` for this
    /// machine itself: behind a proxy everybody comes from there.
    pub fn counted_as(self) -> Option<IpAddr> {
        let address = self.0.to_canonical();
        if address.is_loopback() {
            return None;
        }
        Some(match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
        })
    }
}

/// What happens on a connection.
struct Activity {
    /// Somebody has shown who he is.
    admitted: AtomicBool,
    /// Requests whose answer has not ended.
    open: AtomicUsize,
    /// When the last of them ended.
    rested_since: Mutex<Instant>,
}

/// In the extensions of every request: to be told when the caller has shown who he is.
#[derive(Clone)]
struct Admission(Arc<Activity>);

/// The caller has shown who he is: the connection may stay open.
pub fn admit(extensions: &http::Extensions) {
    if let Some(Admission(activity)) = extensions.get() {
        activity.admitted.store(true, Ordering::Relaxed);
    }
}

/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    /// A file does not hold what it should.
    #[error("cannot read {0}")]
    File(String, #[source] rustls::pki_types::pem::Error),
    /// The file holds no certificate.
    #[error("{0} holds no certificate")]
    NoCertificate(String),
    /// The two do not go together, or the key is of a kind that cannot be used.
    #[error("the certificate and the private key cannot be used together")]
    Unusable(#[source] rustls::Error),
}

/// TLS from a certificate chain and a private key, both PEM files.
pub fn tls(
    certificate: &Path,
    private_key: &Path,
) -> Result<Arc<rustls::ServerConfig>, TlsSetupError> {
    let failed = |path: &Path| {
        let name = path.display().to_string();
        move |e| TlsSetupError::File(name, e)
    };
    let chain: Vec<_> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(failed(certificate))?;
    if chain.is_empty() {
        return Err(TlsSetupError::NoCertificate(
            certificate.display().to_string(),
        ));
    }
    let key = PrivateKeyDer::from_pem_file(private_key).map_err(failed(private_key))?;
    let mut config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(TlsSetupError::Unusable)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// When the certificate of a listener ends; `None`: it does not tell.
pub fn certificate_ends(
    certificate: &Path,
) -> Result<Option<crate::model::Timestamp>, TlsSetupError> {
    let name = || certificate.display().to_string();
    let first = CertificateDer::from_pem_file(certificate);
    let first = first.map_err(|e| TlsSetupError::File(name(), e))?;
    Ok(crate::microsoft::entra::certificate_ends(&first))
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

/// Serves until `stop`, then waits up to `grace` for what is under way. `tls: None` is plain text, for loopback and for a
/// terminating proxy: then nothing is counted by address, because everybody comes from there.
pub async fn serve<S>(
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    service: S,
    stop: CancellationToken,
    grace: Duration,
    noticed: Noticed,
) where
    S: tower::Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
{
    let acceptor = tls.map(TlsAcceptor::from);
    let behind_proxy = acceptor.is_none();
    let (addresses, slots, http) = (
        Arc::new(Addresses::default()),
        Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        http(),
    );
    let Noticed {
        connections: counts,
        beat,
    } = noticed;
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connections = JoinSet::new();
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
        let place = if behind_proxy {
            None
        } else if let Some(place) = addresses.enter(peer) {
            Some(place)
        } else {
            counts.per_address.increment(1);
            tracing::debug!("connection refused: too many from one address");
            continue;
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            counts.full.increment(1);
            tracing::warn!(
                connections = MAX_CONNECTIONS,
                "connection refused: too many are open"
            );
            continue;
        };
        let (acceptor, http, service) = (acceptor.clone(), http.clone(), service.clone());
        let (stop, counts) = (stop.clone(), counts.clone());
        counts.accepted.increment(1);
        connections.spawn(async move {
            let _place = (slot, place, OpenConnection::new(&counts));
            let _ = socket.set_nodelay(true);
            let activity = Arc::new(Activity {
                admitted: AtomicBool::new(false),
                open: AtomicUsize::new(0),
                rested_since: Mutex::new(Instant::now()),
            });
            let seen = Arc::clone(&activity);
            let service = hyper::service::service_fn(move |request| {
                answer(service.clone(), request, peer, Arc::clone(&seen))
            });
            match acceptor {
                None => {
                    let connection = http.serve_connection(TokioIo::new(socket), service);
                    converse(connection, &activity, stop, &counts).await;
                }
                Some(acceptor) => {
                    let Some(stream) = handshake(&acceptor, socket, &stop).await else {
                        counts.handshake.increment(1);
                        return;
                    };
                    let connection = http.serve_connection(TokioIo::new(stream), service);
                    converse(connection, &activity, stop, &counts).await;
                }
            }
        });
    }
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(grace, all).await.is_err() {
        connections.shutdown().await;
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

/// How many connections are open, by address.
type OpenByAddress = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// Who has how many connections.
struct Addresses {
    accepts: DefaultKeyedRateLimiter<IpAddr>,
    open: OpenByAddress,
}

impl Default for Addresses {
    fn default() -> Self {
        let quota = Quota::per_second(ACCEPTS_PER_SECOND).allow_burst(ACCEPTS_AT_ONCE);
        Self {
            accepts: RateLimiter::keyed(quota),
            open: Arc::default(),
        }
    }
}

/// A connection that counts until this is dropped.
struct Entered(Option<(IpAddr, OpenByAddress)>);

impl Addresses {
    /// `None` when there are too many from there.
    fn enter(&self, peer: Peer) -> Option<Entered> {
        let Some(address) = peer.counted_as() else {
            return Some(Entered(None));
        };
        if self.accepts.len() > ADDRESSES_KEPT {
            self.accepts.retain_recent();
        }
        self.accepts.check_key(&address).ok()?;
        let mut all = self.open.lock().expect("nothing panics while counting");
        let open = all.entry(address).or_default();
        if *open >= MAX_PER_ADDRESS {
            return None;
        }
        *open += 1;
        drop(all);
        Some(Entered(Some((address, Arc::clone(&self.open)))))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let Some((address, all)) = self.0.take() else {
            return;
        };
        let mut all = all.lock().expect("nothing panics while counting");
        if let Some(open) = all.get_mut(&address) {
            *open -= 1;
            if *open == 0 {
                all.remove(&address);
            }
        }
    }
}

/// `None` when the peer is too slow, does not speak TLS, or we stop: one silent peer must not delay the end.
async fn handshake(
    acceptor: &TlsAcceptor,
    socket: TcpStream,
    stop: &CancellationToken,
) -> Option<tokio_rustls::server::TlsStream<TcpStream>> {
    let handshake = tokio::time::timeout(HANDSHAKE, acceptor.accept(socket));
    stop.run_until_cancelled(handshake).await?.ok()?.ok()
}

/// Serves a connection to its end. It is cut off when it stays a stranger's, and closed in an orderly way when nothing happens on
/// it any more, or we stop.
async fn converse<C>(
    connection: C,
    activity: &Activity,
    stop: CancellationToken,
    counts: &Connections,
) where
    C: GracefulConnection,
    C::Error: std::fmt::Display,
{
    let (stranger, idle) = (activity.stays_a_stranger(), activity.comes_to_rest());
    tokio::pin!(connection, stranger, idle);
    let mut closing = false;
    loop {
        tokio::select! {
            outcome = connection.as_mut() => {
                if let Err(error) = outcome {
                    tracing::debug!(%error, "a connection ended with an error");
                }
                return;
            }
            () = &mut stranger => {
                counts.stranger.increment(1);
                tracing::debug!("a connection was closed on which nobody has shown who he is");
                return;
            }
            () = &mut idle, if !closing => {
                closing = true;
                connection.as_mut().graceful_shutdown();
            }
            () = stop.cancelled(), if !closing => {
                closing = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

impl Activity {
    /// Ends when nobody has shown in time who he is.
    async fn stays_a_stranger(&self) {
        tokio::time::sleep(FIRST_REQUEST).await;
        if self.admitted.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }

    /// Ends when nothing has happened for a while.
    async fn comes_to_rest(&self) {
        loop {
            let since = *self.rested_since();
            if self.open.load(Ordering::Relaxed) > 0 {
                tokio::time::sleep(IDLE).await;
            } else if since.elapsed() >= IDLE {
                return;
            } else {
                tokio::time::sleep_until(since + IDLE).await;
            }
        }
    }

    fn rested_since(&self) -> std::sync::MutexGuard<'_, Instant> {
        self.rested_since
            .lock()
            .expect("nothing panics while holding a time")
    }
}

/// A request whose answer has not ended.
struct Open(Arc<Activity>);

impl Drop for Open {
    fn drop(&mut self) {
        *self.0.rested_since() = Instant::now();
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of an answer; the request counts as open until it has ended.
struct Counted {
    body: Body,
    _open: Open,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

async fn answer<S>(
    service: S,
    request: http::Request<hyper::body::Incoming>,
    peer: Peer,
    activity: Arc<Activity>,
) -> Result<http::Response<Counted>, Infallible>
where
    S: tower::Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
{
    activity.open.fetch_add(1, Ordering::Relaxed);
    let open = Open(Arc::clone(&activity));
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(peer);
    request.extensions_mut().insert(Admission(activity));
    let response = service.oneshot(request).await?;
    Ok(response.map(|body| Counted { body, _open: open }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> Peer {
        Peer(text.parse().unwrap())
    }

    #[test]
    fn a_host_is_counted_by_its_network_and_this_machine_not_at_all() {
        for (address, counted) in [
            ("192.0.2.7", Some("192.0.2.7")),
            ("::ffff:192.0.2.7", Some("192.0.2.7")),
            ("2001:db8:1:2:3:4:5:6", Some("2001:db8:1:2::")),
            ("127.0.0.9", None),
            ("::1", None),
            ("::ffff:127.0.0.1", None),
        ] {
            let expected = counted.map(|text| text.parse().unwrap());
            assert_eq!(peer(address).counted_as(), expected, "{address}");
        }
    }

    #[tokio::test]
    async fn one_host_cannot_take_every_place() {
        let addresses = Addresses::default();
        let at_once: Vec<_> = (0..150)
            .map_while(|_| addresses.enter(peer("192.0.2.1")))
            .collect();
        assert!((100..110).contains(&at_once.len()), "{}", at_once.len());
        assert!(addresses.enter(peer("192.0.2.2")).is_some());
        let open = Arc::clone(&addresses.open);
        open.lock()
            .unwrap()
            .insert("192.0.2.3".parse().unwrap(), MAX_PER_ADDRESS);
        assert!(addresses.enter(peer("192.0.2.3")).is_none());
        assert!((0..1000).all(|_| addresses.enter(peer("127.0.0.1")).is_some()));
        drop(at_once);
        assert!(
            !open
                .lock()
                .unwrap()
                .contains_key(&peer("192.0.2.1").counted_as().unwrap())
        );
    }

    type Client = hyper::client::conn::http2::SendRequest<Body>;

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
            None,
            routes,
            CancellationToken::new(),
            IDLE,
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
        let serving = serve(
            listener,
            None,
            routes,
            CancellationToken::new(),
            IDLE,
            noticed,
        );
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
