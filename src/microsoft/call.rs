//! One exchange, as every exchange with Microsoft is made: identified, logged without secrets, its errors named.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use serde_json::Value;
use tokio::time::Instant;
use tracing::Instrument as _;
use uuid::Uuid;

use super::error::{BadAnswer, BadInput, MicrosoftError, Operation, StatusError};
use super::headers;
use super::transport::{HttpTransport, Limits};
use crate::secret::Secret;

/// An id per attempt; Microsoft asks for it on every call. `microsoft-graph.md` §2.
const CLIENT_REQUEST_ID: &str = "client-request-id";

/// An answer, whatever its status.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub client_request_id: String,
}

/// Sends a request with an id of its own and leaves one line in the log: no address, no body, no name.
pub async fn send(
    transport: &dyn HttpTransport,
    operation: Operation,
    mut request: Request<Bytes>,
    limits: Limits,
) -> Result<Answer, MicrosoftError> {
    let id = Uuid::new_v4().to_string();
    if let Ok(value) = HeaderValue::from_str(&id) {
        request.headers_mut().insert(CLIENT_REQUEST_ID, value);
    }
    // Whoever counts what goes out sees what it is for.
    request.extensions_mut().insert(operation);
    let span = tracing::info_span!(
        "microsoft.request",
        microsoft.operation = %operation,
        microsoft.client_request_id = id,
        http.status = tracing::field::Empty,
        microsoft.request_id = tracing::field::Empty,
        otel.kind = "client",
        otel.status_code = tracing::field::Empty,
    );
    let start = Instant::now();
    let result = transport
        .send(request, limits)
        .instrument(span.clone())
        .await;
    let elapsed_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    match result {
        Ok(response) => {
            let (parts, body) = Response::into_parts(response);
            span.record("http.status", parts.status.as_u16());
            if let Some(request_id) = request_id(&parts.headers) {
                span.record("microsoft.request_id", request_id);
            }
            if !parts.status.is_success() {
                span.record("otel.status_code", "ERROR");
            }
            tracing::debug!(
                microsoft.operation = %operation,
                http.status = parts.status.as_u16(),
                microsoft.request_id = request_id(&parts.headers),
                microsoft.client_request_id = id,
                elapsed_ms,
                "Microsoft answered"
            );
            Ok(Answer {
                status: parts.status,
                headers: parts.headers,
                body,
                client_request_id: id,
            })
        }
        Err(source) => {
            span.record("otel.status_code", "ERROR");
            // At a level that is written: the error itself does not carry the id.
            tracing::info!(
                microsoft.operation = %operation,
                microsoft.client_request_id = id,
                elapsed_ms,
                error = %source,
                "no answer from Microsoft"
            );
            Err(MicrosoftError::Transport { operation, source })
        }
    }
}

/// Graph says `request-id`, Entra `x-ms-request-id`.
fn request_id(headers: &HeaderMap) -> Option<String> {
    headers::id(headers, "request-id").or_else(|| headers::id(headers, "x-ms-request-id"))
}

/// The header that carries a token, kept out of every debug print.
pub fn bearer(operation: Operation, token: &Secret) -> Result<HeaderValue, MicrosoftError> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
        .map_err(|_| MicrosoftError::input(operation, BadInput::Credential))?;
    value.set_sensitive(true);
    Ok(value)
}

/// A request to read JSON from an address.
pub fn get(operation: Operation, url: &url::Url) -> Result<Request<Bytes>, MicrosoftError> {
    Request::get(url.as_str())
        .header(header::ACCEPT, "application/json")
        .body(Bytes::new())
        .map_err(|_| MicrosoftError::Transport {
            operation,
            source: super::transport::TransportError::Invalid,
        })
}

impl Answer {
    /// The error an answer stands for.
    pub fn error(&self, operation: Operation) -> MicrosoftError {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        MicrosoftError::Status(Box::new(StatusError {
            operation,
            status: self.status.as_u16(),
            code: envelope_code(&body),
            request_id: request_id(&self.headers),
            client_request_id: Some(self.client_request_id.clone()),
            retry_after: headers::retry_after(&self.headers),
            claims: headers::claims_challenge(&self.headers),
        }))
    }

    /// The JSON of a success.
    pub fn json(&self, operation: Operation) -> Result<Value, MicrosoftError> {
        if self.status != StatusCode::OK {
            return Err(self.error(operation));
        }
        serde_json::from_slice(&self.body)
            .map_err(|_| MicrosoftError::body(operation, BadAnswer::NotJson))
    }
}

/// `error.code` of Graph's envelope, or `error` itself where it is a word as Entra writes it; empty when it says neither.
pub fn envelope_code(body: &Value) -> String {
    let error = &body["error"];
    error["code"]
        .as_str()
        .or(error.as_str())
        .and_then(headers::token)
        .unwrap_or_default()
}
