//! Our own accept loop: tonic and axum are mounted on it as services. Design decision 13.
//!
//! Limits from `security-and-faults.md` §5. The loop outlives every connection and every accept error.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// Most open connections.
const MAX_CONNECTIONS: usize = 20_000;

/// Longest TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// A connection without a request by then is closed: silent ones must not take the place of suites.
const FIRST_REQUEST: Duration = Duration::from_secs(10);

/// Rest after an accept error such as "too many open files".
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// Who is at the other end; in the extensions of every request.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

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
/// terminating proxy.
pub async fn serve<S>(
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    service: S,
    stop: CancellationToken,
    grace: Duration,
) where
    S: tower::Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
{
    let acceptor = tls.map(TlsAcceptor::from);
    let (graceful, slots, http) = (
        GracefulShutdown::new(),
        Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        http(),
    );
    let mut connections = JoinSet::new();
    loop {
        let (socket, peer) = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_REST).await;
                    continue;
                }
            },
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            tracing::warn!(
                connections = MAX_CONNECTIONS,
                "connection refused: too many are open"
            );
            continue;
        };
        let (acceptor, http, service) = (acceptor.clone(), http.clone(), service.clone());
        let (stop, watcher) = (stop.clone(), graceful.watcher());
        connections.spawn(async move {
            let _slot = slot;
            let _ = socket.set_nodelay(true);
            let asked = Arc::new(AtomicBool::new(false));
            let service = with_peer(service, peer, Arc::clone(&asked));
            match acceptor {
                None => {
                    let connection = http.serve_connection(TokioIo::new(socket), service);
                    unless_silent(watcher.watch(connection.into_owned()), &asked).await;
                }
                Some(acceptor) => {
                    let Some(stream) = handshake(&acceptor, socket, &stop).await else {
                        return;
                    };
                    let connection = http.serve_connection(TokioIo::new(stream), service);
                    unless_silent(watcher.watch(connection.into_owned()), &asked).await;
                }
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(grace, graceful.shutdown())
        .await
        .is_err()
    {
        connections.shutdown().await;
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

/// Serves a connection to its end, or closes it when nothing was asked in time.
async fn unless_silent(
    connection: impl Future<Output = Result<(), Box<dyn std::error::Error + Send + Sync>>>,
    asked: &AtomicBool,
) {
    let silence = async {
        tokio::time::sleep(FIRST_REQUEST).await;
        if asked.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        outcome = connection => {
            if let Err(error) = outcome {
                tracing::debug!(%error, "a connection ended with an error");
            }
        }
        () = silence => tracing::debug!("a connection without a request was closed"),
    }
}

fn with_peer<S>(
    service: S,
    peer: SocketAddr,
    asked: Arc<AtomicBool>,
) -> TowerToHyperService<
    impl tower::Service<
        http::Request<hyper::body::Incoming>,
        Response = http::Response<Body>,
        Error = Infallible,
        Future = S::Future,
    > + Clone
    + Send
    + 'static,
>
where
    S: tower::Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
{
    TowerToHyperService::new(service.map_request(
        move |request: http::Request<hyper::body::Incoming>| {
            asked.store(true, Ordering::Relaxed);
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(Peer(peer.ip()));
            request
        },
    ))
}
