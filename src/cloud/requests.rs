//! What every request has, whichever listener it comes to: an id that is in each of its log lines and in its answer, a span, and its
//! place in the metrics.
//!
//! The spans have the highest level, so that the id is in whatever is logged, however little that is.
//!
//! An id from outside is believed only where machines of ours ask, and only if it looks like one: it goes into the log.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;
use tracing::{Instrument as _, Span, field};
use uuid::Uuid;

use super::metrics::Metrics;

/// Carries the id, in both directions.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id taken from outside.
const MAX_ID_BYTES: usize = 64;

/// The id of a request; in its extensions.
#[derive(Debug, Clone)]
pub struct RequestId(pub String);

/// How requests of one listener are observed.
#[derive(Clone)]
pub struct Observed {
    /// Where they are counted.
    pub metrics: Arc<Metrics>,
    /// Name of the listener.
    pub listener: &'static str,
    /// Whether callers may bring ids of their own.
    pub ids_from_outside: bool,
}

/// An id from outside that may go into the log.
fn well_formed(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(REQUEST_ID)?.to_str().ok()?;
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    let good = !text.is_empty() && text.len() <= MAX_ID_BYTES && text.bytes().all(fits);
    good.then(|| text.to_owned())
}

impl Observed {
    fn id(&self, headers: &HeaderMap) -> String {
        self.ids_from_outside
            .then(|| well_formed(headers))
            .flatten()
            .unwrap_or_else(|| Uuid::new_v4().to_string())
    }
}

fn with_id(response: &mut Response, id: &str) {
    if let Ok(value) = HeaderValue::from_str(id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
}

fn millis(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Observes requests for pages and to the operators' interface. Addresses may hold secrets: only the route is told.
pub async fn observe(
    State(observed): State<Observed>,
    mut request: Request,
    next: Next,
) -> Response {
    let id = observed.id(request.headers());
    request.extensions_mut().insert(RequestId(id.clone()));
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    let span = tracing::error_span!(
        "request",
        request.id = id,
        listener = observed.listener,
        http.method = method(request.method()),
        http.route = route,
        http.status = field::Empty,
        otel.name = format!("{} {route}", method(request.method())),
        otel.kind = "server",
        otel.status_code = field::Empty,
    );
    let start = Instant::now();
    let mut response = next.run(request).instrument(span.clone()).await;
    let status = response.status();
    span.record("http.status", status.as_u16());
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
    observed
        .metrics
        .http(observed.listener, route, status.as_u16(), start.elapsed());
    span.in_scope(|| tracing::debug!(elapsed_ms = millis(start), "answered"));
    with_id(&mut response, &id);
    response
}

/// The method, if it is one of those there are: anything may stand there.
fn method(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        _ => "other",
    }
}

/// Methods of our services.
const RPCS: [&str; 4] = ["Watch", "GetPresence", "Enroll", "RenewKey"];

/// The method of a call, as a word of ours.
fn rpc(path: &str) -> &'static str {
    let Some((service, name)) = path.trim_start_matches('/').split_once('/') else {
        return "none";
    };
    if service.starts_with("presence.bridge.v1.") {
        return RPCS.into_iter().find(|rpc| *rpc == name).unwrap_or("none");
    }
    match service {
        "grpc.health.v1.Health" => "health",
        service if service.starts_with("grpc.reflection.") => "reflection",
        _ => "none",
    }
}

/// The code of an answer, or of its beginning.
fn code(response: &Response) -> &'static str {
    const WORDS: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    let header = response.headers().get("grpc-status");
    let number = header.and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let number = number.unwrap_or(if response.status().is_success() { 0 } else { 2 });
    WORDS.get(number).copied().unwrap_or("UNKNOWN")
}

/// Observes calls of suites. Of a stream this is its beginning.
pub async fn observe_rpc(
    State(observed): State<Observed>,
    mut request: Request,
    next: Next,
) -> Response {
    let id = observed.id(request.headers());
    request.extensions_mut().insert(RequestId(id.clone()));
    let rpc = rpc(request.uri().path());
    let span = tracing::error_span!(
        "rpc",
        request.id = id,
        rpc.method = rpc,
        rpc.code = field::Empty,
        otel.name = rpc,
        otel.kind = "server",
        otel.status_code = field::Empty,
    );
    let start = Instant::now();
    let mut response = next.run(request).instrument(span.clone()).await;
    let code = code(&response);
    span.record("rpc.code", code);
    if matches!(code, "INTERNAL" | "UNKNOWN" | "UNAVAILABLE" | "DATA_LOSS") {
        span.record("otel.status_code", "ERROR");
    }
    observed.metrics.rpc(rpc, code);
    span.in_scope(|| tracing::debug!(elapsed_ms = millis(start), "answered"));
    with_id(&mut response, &id);
    response
}

/// The span of what a request sets going and does not wait for.
pub fn afterwards(id: Option<&RequestId>, name: &'static str) -> Span {
    let id = id.map(|RequestId(id)| id.as_str());
    tracing::error_span!(parent: None, "continued", name, request.id = id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(id: &[u8]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_bytes(id).unwrap());
        headers
    }

    #[test]
    fn an_id_from_outside_is_short_and_plain_or_another_is_made() {
        let observed = |ids_from_outside| Observed {
            metrics: Metrics::new(),
            listener: "operators",
            ids_from_outside,
        };
        assert_eq!(observed(true).id(&headers(b"deploy-7.A_b")), "deploy-7.A_b");
        for bad in [
            b"".as_slice(),
            b"a b",
            b"a\"b",
            b"<script>",
            b"caf\xc3\xa9",
            &[b'a'; 65],
        ] {
            assert!(Uuid::try_parse(&observed(true).id(&headers(bad))).is_ok());
        }
        assert!(Uuid::try_parse(&observed(false).id(&headers(b"mine"))).is_ok());
        assert!(Uuid::try_parse(&observed(true).id(&HeaderMap::new())).is_ok());
    }

    #[test]
    fn whatever_is_called_becomes_a_word_of_ours() {
        for (path, word) in [
            ("/presence.bridge.v1.PresenceService/Watch", "Watch"),
            ("/presence.bridge.v1.PresenceService/Ann", "none"),
            ("/grpc.health.v1.Health/Check", "health"),
            ("/nobody@contoso.example", "none"),
            ("/", "none"),
        ] {
            assert_eq!(rpc(path), word, "{path}");
        }
    }
}
