//! An answer before it becomes HTTP, and the faults that spoil it on its way.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::header::{CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::{HeaderName, HeaderValue};
use serde_json::Value;

use super::faults::Fault;

/// Size of the answer of the fault `huge-body`.
pub const HUGE: usize = 100 << 20;

/// An answer before it becomes HTTP.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Payload,
}

/// What an answer carries.
#[derive(Debug, Clone)]
pub enum Payload {
    Nothing,
    Json(Value),
    Text(String),
}

impl Answer {
    pub fn json(status: u16, body: Value) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Payload::Json(body),
        }
    }

    pub fn html(status: u16, page: String) -> Self {
        Self {
            status,
            headers: vec![("content-type", "text/html; charset=utf-8".to_owned())],
            body: Payload::Text(page),
        }
    }

    pub fn redirect(to: String) -> Self {
        Self {
            status: 302,
            headers: vec![("location", to)],
            body: Payload::Nothing,
        }
    }

    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.retain(|(n, _)| *n != name);
        self.headers.push((name, value.into()));
        self
    }

    fn bytes(&self) -> Bytes {
        match &self.body {
            Payload::Nothing => Bytes::new(),
            Payload::Json(value) => value.to_string().into(),
            Payload::Text(text) => text.clone().into(),
        }
    }

    fn response(self, body: Body) -> Response {
        let mut response = Response::new(body);
        *response.status_mut() = http::StatusCode::from_u16(self.status)
            .unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        if matches!(self.body, Payload::Json(_)) {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        for (name, value) in self.headers {
            if let (Ok(name), Ok(value)) = (
                HeaderName::from_bytes(name.as_bytes()),
                HeaderValue::from_str(&value),
            ) {
                headers.insert(name, value);
            }
        }
        response
    }

    /// Sends it, spoiled by the faults that concern the way and not the content.
    pub async fn send(mut self, faults: &[Fault]) -> Response {
        let mut body = None;
        for fault in faults {
            match fault {
                Fault::Slow { delay_ms } | Fault::SlowToken { delay_ms } => {
                    tokio::time::sleep(Duration::from_millis(*delay_ms)).await;
                }
                Fault::GarbageJson => {
                    self.status = 200;
                    body = Some(Body::from("<~>{]this is no JSON\u{0}\u{1}"));
                }
                Fault::TruncatedJson => {
                    self.status = 200;
                    let bytes = self.bytes();
                    body = Some(Body::from(bytes.slice(..bytes.len() / 2)));
                }
                Fault::HugeBody => {
                    self.status = 200;
                    body = Some(huge());
                }
                Fault::Stall => {
                    body = Some(Body::from_stream(stream::pending::<
                        Result<Bytes, Infallible>,
                    >()));
                }
                Fault::Reset => {
                    let bytes = self.bytes();
                    let half = bytes.slice(..bytes.len() / 2);
                    let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
                    // The pause lets the first half leave before the connection breaks.
                    let rest = stream::once(async {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        Err(broken)
                    });
                    body = Some(Body::from_stream(
                        stream::once(async { Ok::<_, std::io::Error>(half) }).chain(rest),
                    ));
                }
                Fault::EmptyBody => {
                    self.status = 200;
                    body = Some(Body::empty());
                }
                Fault::WrongContentType => {
                    self = self.with("content-type", "text/html");
                }
                _ => {}
            }
        }
        let body = body.unwrap_or_else(|| Body::from(self.bytes()));
        self.response(body)
    }

    /// The answer of a fault that replaces the content whoever asks, Graph or Entra.
    pub fn instead(fault: &Fault) -> Option<Self> {
        Some(match fault {
            Fault::GatewayHtml => Self::html(
                502,
                "<html><head><title>502 Bad Gateway</title></head><body><center><h1>502 Bad Gateway</h1></center><hr>\
                 <center>Microsoft-Azure-Application-Gateway/v2</center></body></html>"
                    .to_owned(),
            ),
            Fault::Redirect { to } => Self {
                status: 302,
                headers: vec![(LOCATION.as_str(), to.clone())],
                body: Payload::Nothing,
            },
            _ => return None,
        })
    }

    #[must_use]
    pub fn retry_after(self, seconds: Option<u32>) -> Self {
        match seconds {
            Some(seconds) => self.with(RETRY_AFTER.as_str(), seconds.to_string()),
            None => self,
        }
    }
}

/// Valid JSON for as long as anybody reads it, from one small buffer.
fn huge() -> Body {
    const CHUNK: usize = 64 << 10;
    let blanks = Bytes::from(vec![b' '; CHUNK]);
    let chunks = std::iter::once(Bytes::from_static(b"{\"value\":["))
        .chain(std::iter::repeat_n(blanks, HUGE / CHUNK))
        .chain(std::iter::once(Bytes::from_static(b"]}")));
    Body::from_stream(stream::iter(chunks.map(Ok::<_, Infallible>)))
}
