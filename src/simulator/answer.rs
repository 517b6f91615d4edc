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

/// Where the answer of the fault `endless` ends after all, so that nobody is harmed by having asked.
pub const ENDLESS: usize = 1 << 30;

/// Size of the answers of the faults with gzip, as they are sent or as they would be unpacked.
const BOMB: usize = 4 << 30;
const HOLLOW: usize = 256 << 20;

/// Levels of the fault `deep-json`.
const DEEP: usize = 50_000;

/// Time after which the fault `drip` has nothing more to send.
const DRIPS_FOR: Duration = Duration::from_hours(1);

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
            if let Some(hostile) = self.hostile(fault) {
                body = Some(hostile);
                continue;
            }
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
                    body = Some(long(HUGE));
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

    /// The body that a fault sends in order to do harm, if it is such a fault. Each is sent as it is read, from little memory.
    fn hostile(&mut self, fault: &Fault) -> Option<Body> {
        let packed = ("content-encoding", "gzip".to_owned());
        let body = match fault {
            Fault::Drip { delay_ms } => {
                return Some(drip(self.bytes(), Duration::from_millis(*delay_ms)));
            }
            Fault::Endless => long(ENDLESS),
            Fault::GzipBomb => {
                const PIECE: usize = 1 << 20;
                self.headers.push(packed);
                gzip(packed_blanks(PIECE), BOMB / PIECE)
            }
            Fault::GzipHollow => {
                // A stored block of no bytes, again and again.
                let piece = b"\0\0\0\xff\xff".repeat(8 << 10);
                let times = HOLLOW / piece.len();
                self.headers.push(packed);
                gzip(piece, times)
            }
            Fault::GzipGarbage => {
                self.headers.push(packed);
                Body::from(self.bytes())
            }
            Fault::DeepJson => Body::from("[".repeat(DEEP)),
            Fault::PortalPage => {
                self.headers
                    .push(("content-type", "text/html; charset=utf-8".to_owned()));
                Body::from(
                    "<!doctype html><html><title>Welcome</title><body>Sign in to use this network.</body></html>",
                )
            }
            Fault::WrongCharset => {
                self.headers.push((
                    "content-type",
                    "application/json; charset=utf-16".to_owned(),
                ));
                let text = String::from_utf8_lossy(&self.bytes()).into_owned();
                let utf16 = std::iter::once(0xFEFF).chain(text.encode_utf16());
                Body::from(utf16.flat_map(u16::to_be_bytes).collect::<Vec<u8>>())
            }
            Fault::ErrorInOk => {
                let error = serde_json::json!({ "error": { "code": "serviceNotAvailable", "message": "The service is temporarily unavailable." } });
                Body::from(error.to_string())
            }
            _ => return None,
        };
        self.status = 200;
        Some(body)
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
            Fault::Redirect { to, status } => Self {
                status: *status,
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

/// Valid JSON of this size, for as long as anybody reads it, from one small buffer.
fn long(size: usize) -> Body {
    const CHUNK: usize = 64 << 10;
    let blanks = Bytes::from(vec![b' '; CHUNK]);
    let chunks = std::iter::once(Bytes::from_static(b"{\"value\":["))
        .chain(std::iter::repeat_n(blanks, size / CHUNK))
        .chain(std::iter::once(Bytes::from_static(b"]}")));
    Body::from_stream(stream::iter(chunks.map(Ok::<_, Infallible>)))
}

/// The head of a gzip member: no name, no time.
const GZIP_HEAD: &[u8] = b"\x1f\x8b\x08\0\0\0\0\0\0\xff";

/// Gzip of which a piece is repeated until so much was sent. It has no proper end: nobody should get there.
fn gzip(piece: Vec<u8>, times: usize) -> Body {
    let piece = Bytes::from(piece);
    let chunks = std::iter::once(Bytes::from_static(GZIP_HEAD))
        .chain(std::iter::repeat_n(piece, times))
        .map(Ok::<_, Infallible>);
    Body::from_stream(stream::iter(chunks))
}

/// Blanks, which are JSON as good as any, as small as gzip makes them, in a piece that stands for itself: it can be repeated.
fn packed_blanks(size: usize) -> Vec<u8> {
    let mut packed = Vec::with_capacity((size >> 9) + 64);
    flate2::Compress::new(flate2::Compression::best(), false)
        .compress_vec(&vec![b' '; size], &mut packed, flate2::FlushCompress::Full)
        .expect("there is room for what is packed");
    packed
}

/// The bytes one after the other, and then blanks, for an hour.
fn drip(bytes: Bytes, apart: Duration) -> Body {
    let apart = apart.max(Duration::from_millis(1));
    let most = usize::try_from(DRIPS_FOR.as_millis() / apart.as_millis()).unwrap_or(usize::MAX);
    let drops = stream::iter(0..most).then(move |at| {
        let drop = if at < bytes.len() {
            bytes.slice(at..=at)
        } else {
            Bytes::from_static(b" ")
        };
        async move {
            tokio::time::sleep(apart).await;
            Ok::<_, Infallible>(drop)
        }
    });
    Body::from_stream(drops)
}
