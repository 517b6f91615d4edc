//! HTTP towards Microsoft: a request in, a whole answer out, and every limit in between.
//!
//! Invariants: no redirect is followed, no host is spoken to that was not named at construction, no answer is read past
//! its limit, and nothing here prints a URL or a body. `security-and-faults.md` §2.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::{Body, HttpBody};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body_util::BodyExt as _;
use tokio::time::{Instant, timeout_at};
use tower::ServiceExt as _;
use unpack::{Unpack, UnpackError};
use url::{Host, Url};

mod unpack;

/// How long and how big one exchange may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From the start of sending to the end of the answer.
    pub total: Duration,
    /// From the start of sending to the head of the answer, connecting included.
    pub first_byte: Duration,
    /// Longest silence inside the body.
    pub idle: Duration,
    /// Most bytes of the body: as it comes over the wire, and unpacked as well.
    pub max_body: usize,
}

impl Limits {
    /// For Graph. `security-and-faults.md` §2.
    pub const GRAPH: Self = Self {
        total: Duration::from_secs(30),
        first_byte: Duration::from_secs(10),
        idle: Duration::from_secs(5),
        max_body: 4 << 20,
    };

    /// For Entra's token endpoint and its documents. `security-and-faults.md` §2.
    pub const TOKEN: Self = Self {
        total: Duration::from_secs(10),
        first_byte: Duration::from_secs(10),
        idle: Duration::from_secs(5),
        max_body: 64 << 10,
    };
}

/// Longest wait for a connection, TLS included. `security-and-faults.md` §2.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Shortest time between two replacements of the connections after a 503.
const FRESH_CONNECTIONS_EVERY: Duration = Duration::from_mins(1);

/// Why there is no answer. Holds no URL beyond the host, and no body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// No connection: name, network or TLS.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// One of the [`Limits`] of time ran out.
    #[error("no {0} in time")]
    Timeout(Waiting),
    /// The body is longer than [`Limits::max_body`]; the rest was not read.
    #[error("the answer is longer than {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The body is packed in a way we did not ask for, or cannot be unpacked.
    #[error("the answer cannot be unpacked: {0}")]
    Unpackable(&'static str),
    /// The connection broke before the answer was complete, or what came is not HTTP.
    #[error("the connection broke: {0}")]
    Interrupted(String),
    /// The host (and port) is not one of those named at construction. Nothing was sent.
    #[error("{0} is not a host this client talks to")]
    Forbidden(String),
    /// The request cannot be sent as it stands. Nothing was sent.
    #[error("the request cannot be sent")]
    Invalid,
}

/// What did not come in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// The head of the answer.
    Head,
    /// The next part of the body.
    Body,
    /// The end of the body.
    End,
}

impl std::fmt::Display for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Head => "answer",
            Self::Body => "more of the answer",
            Self::End => "end of the answer",
        })
    }
}

/// Sends one request and gives the whole answer, whatever its status.
#[async_trait]
pub trait HttpTransport: Send + Sync + 'static {
    /// One attempt, never repeated here.
    async fn send(
        &self,
        request: http::Request<Bytes>,
        limits: Limits,
    ) -> Result<http::Response<Bytes>, TransportError>;
}

/// Why the client could not be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportSetupError {
    /// Plain http is for loopback only.
    #[error("{0}: plain http is allowed towards this machine only; use https")]
    PlainHttp(String),
    /// Neither http nor https, or no host.
    #[error("{0} is not the address of a web service")]
    NotAnOrigin(String),
    /// The extra root certificates are not PEM.
    #[error("the extra root certificates cannot be read: {0}")]
    RootCertificates(String),
    /// TLS could not start.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

impl Origin {
    fn of(url: &Url) -> Option<Self> {
        Some(Self {
            scheme: url.scheme().to_owned(),
            host: url.host_str()?.to_owned(),
            port: url.port_or_known_default(),
        })
    }
}

/// Whether two addresses have the same scheme, host and port.
pub(super) fn same_origin(a: &Url, b: &Url) -> bool {
    Origin::of(a).is_some_and(|a| Some(a) == Origin::of(b))
}

/// The real thing: HTTP/1.1 and HTTP/2 over TLS.
///
/// - Talks only to the origins (scheme, host, port) named at construction; plain http only towards loopback.
/// - Trusts the roots of the operating system, and the extra ones given.
/// - Follows no redirect, keeps no cookie, repeats nothing, takes no proxy from the environment: the way to Microsoft is
///   part of the configuration or it does not exist.
/// - After a 503 the next attempt uses new connections, as Microsoft asks (`microsoft-graph.md` §11), at most once a minute.
#[derive(Debug)]
pub struct ReqwestTransport {
    allowed: Vec<Origin>,
    roots: Vec<reqwest::Certificate>,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    client: reqwest::Client,
    since: Instant,
}

impl ReqwestTransport {
    /// Builds the client for these origins; `extra_root_pem` holds certificates trusted besides those of the system.
    pub fn new(
        allowed: &[Url],
        extra_root_pem: Option<&[u8]>,
    ) -> Result<Self, TransportSetupError> {
        let mut origins = Vec::new();
        for url in allowed {
            let host = url.host_str().unwrap_or_default().to_owned();
            match url.scheme() {
                "https" => {}
                "http" if is_loopback(url) => {}
                "http" => return Err(TransportSetupError::PlainHttp(host)),
                _ => return Err(TransportSetupError::NotAnOrigin(host)),
            }
            origins.push(Origin::of(url).ok_or(TransportSetupError::NotAnOrigin(host))?);
        }
        let roots = match extra_root_pem {
            Some(pem) => reqwest::Certificate::from_pem_bundle(pem)
                .map_err(|e| TransportSetupError::RootCertificates(describe(e)))?,
            None => Vec::new(),
        };
        if extra_root_pem.is_some() && roots.is_empty() {
            let none = "no certificate in it".to_owned();
            return Err(TransportSetupError::RootCertificates(none));
        }
        let client = build_client(&roots).map_err(|e| TransportSetupError::Tls(describe(e)))?;
        Ok(Self {
            allowed: origins,
            roots,
            current: Mutex::new(Current {
                client,
                since: Instant::now(),
            }),
        })
    }

    fn client(&self) -> reqwest::Client {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.client.clone()
    }

    /// Later calls open new connections; calls under way keep theirs.
    fn renew_connections(&self) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.since.elapsed() < FRESH_CONNECTIONS_EVERY {
            return;
        }
        if let Ok(client) = build_client(&self.roots) {
            *current = Current {
                client,
                since: Instant::now(),
            };
        }
    }
}

fn build_client(roots: &[reqwest::Certificate]) -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder()
        .user_agent(concat!("presence-bridge/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .no_proxy()
        .pool_idle_timeout(Duration::from_mins(1))
        .tls_certs_merge(roots.iter().cloned())
        .build()
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// The causes of a reqwest error, without the URL its own text holds.
fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[async_trait]
impl HttpTransport for ReqwestTransport {
    async fn send(
        &self,
        request: http::Request<Bytes>,
        limits: Limits,
    ) -> Result<http::Response<Bytes>, TransportError> {
        let request = accepting_gzip(request);
        let request = reqwest::Request::try_from(request).map_err(|_| TransportError::Invalid)?;
        let origin = Origin::of(request.url()).ok_or(TransportError::Invalid)?;
        if !self.allowed.contains(&origin) {
            return Err(TransportError::Forbidden(match request.url().port() {
                Some(port) => format!("{}:{port}", origin.host),
                None => origin.host,
            }));
        }
        let start = Instant::now();
        let head = timeout_at(
            start + limits.first_byte.min(limits.total),
            self.client().execute(request),
        );
        let response = match head.await {
            Err(_) => return Err(TransportError::Timeout(Waiting::Head)),
            Ok(Err(e)) if e.is_connect() => return Err(TransportError::Connect(describe(e))),
            Ok(Err(e)) if e.is_timeout() => return Err(TransportError::Timeout(Waiting::Head)),
            Ok(Err(e)) => return Err(TransportError::Interrupted(describe(e))),
            Ok(Ok(response)) => response,
        };
        if response.status() == StatusCode::SERVICE_UNAVAILABLE {
            self.renew_connections();
        }
        read_body(http::Response::from(response), limits, start, describe).await
    }
}

/// An [`axum::Router`] in this process, for tests whose time is paused: the same limits, no sockets.
#[derive(Debug, Clone)]
pub struct RouterTransport(pub axum::Router);

#[async_trait]
impl HttpTransport for RouterTransport {
    async fn send(
        &self,
        request: http::Request<Bytes>,
        limits: Limits,
    ) -> Result<http::Response<Bytes>, TransportError> {
        let start = Instant::now();
        let request = accepting_gzip(request).map(Body::from);
        let answer = self.0.clone().oneshot(request);
        let response = match timeout_at(start + limits.first_byte.min(limits.total), answer).await {
            Err(_) => return Err(TransportError::Timeout(Waiting::Head)),
            Ok(Ok(response)) => response,
            Ok(Err(never)) => match never {},
        };
        read_body(response, limits, start, |e: axum::Error| e.to_string()).await
    }
}

/// We unpack ourselves: so that what comes is counted, and what it becomes.
fn accepting_gzip(mut request: http::Request<Bytes>) -> http::Request<Bytes> {
    let gzip = HeaderValue::from_static("gzip");
    request.headers_mut().insert(header::ACCEPT_ENCODING, gzip);
    request
}

async fn read_body<B: HttpBody<Data = Bytes> + Unpin>(
    response: http::Response<B>,
    limits: Limits,
    start: Instant,
    describe: impl Fn(B::Error) -> String,
) -> Result<http::Response<Bytes>, TransportError> {
    let failed = |e: UnpackError| match e {
        UnpackError::TooLarge => TransportError::TooLarge {
            limit: limits.max_body,
        },
        UnpackError::Unpackable(why) => TransportError::Unpackable(why),
    };
    let (mut parts, mut body) = response.into_parts();
    if body.size_hint().lower() > limits.max_body as u64 {
        return Err(failed(UnpackError::TooLarge));
    }
    let mut read = Unpack::new(&parts.headers, limits.max_body).map_err(failed)?;
    let end = start + limits.total;
    loop {
        let next = (Instant::now() + limits.idle).min(end);
        let frame = match timeout_at(next, body.frame()).await {
            Ok(None) => break,
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(e))) => return Err(TransportError::Interrupted(describe(e))),
            Err(_) if next == end => return Err(TransportError::Timeout(Waiting::End)),
            Err(_) => return Err(TransportError::Timeout(Waiting::Body)),
        };
        // Who always has something ready would never let the time run out.
        if Instant::now() >= end {
            return Err(TransportError::Timeout(Waiting::End));
        }
        // Trailers carry nothing we want.
        if let Ok(data) = frame.into_data() {
            read.take(&data).map_err(failed)?;
        }
    }
    let read = read.finish().map_err(failed)?;
    // They speak of the body as it came.
    parts.headers.remove(header::CONTENT_ENCODING);
    parts.headers.remove(header::CONTENT_LENGTH);
    Ok(http::Response::from_parts(parts, read))
}

#[cfg(test)]
mod tests;
