//! HTTP/2 frame by frame, as no honest client would write it. RFC 9113.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// What a client says first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// "You are too much for me": the error code of GOAWAY.
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// One frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header, spelled out, in HPACK. Remembered by the other side or not.
pub fn field(name: &str, value: &str, remembered: bool) -> Vec<u8> {
    let mut field = vec![if remembered { 0x40 } else { 0 }];
    for text in [name, value] {
        let mut rest = text.len();
        if rest < 127 {
            field.push(u8::try_from(rest).unwrap());
        } else {
            field.push(127);
            rest -= 127;
            while rest >= 128 {
                field.push(u8::try_from(rest % 128).unwrap() | 128);
                rest /= 128;
            }
            field.push(u8::try_from(rest).unwrap());
        }
        field.extend(text.as_bytes());
    }
    field
}

/// The headers of a call of this path.
pub fn call(path: &str) -> Vec<u8> {
    [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "cloud"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]
    .iter()
    .flat_map(|(name, value)| field(name, value, false))
    .collect()
}

/// What the other side has said.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    /// Error code of GOAWAY.
    pub goaway: Option<u32>,
    /// Streams it has reset, each time.
    pub resets: Vec<u32>,
    /// Streams with headers, and whether these were all of the answer.
    pub headers: Vec<(u32, bool)>,
    /// Streams with data.
    pub data: Vec<u32>,
    /// Answers to PING and SETTINGS.
    pub acknowledged: usize,
}

/// A connection on which anything can be said.
pub struct Wire {
    write: OwnedWriteHalf,
    seen: Arc<Mutex<Seen>>,
    reading: tokio_util::task::AbortOnDropHandle<()>,
}

impl Wire {
    /// Connects, and says nothing yet.
    pub async fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).await.unwrap();
        let (mut read, write) = socket.into_split();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let noted = Arc::clone(&seen);
        let reading = async move {
            let mut head = [0; 9];
            let mut payload = Vec::new();
            while read.read_exact(&mut head).await.is_ok() {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                payload.resize(usize::try_from(length).unwrap(), 0);
                if read.read_exact(&mut payload).await.is_err() {
                    break;
                }
                let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                let mut seen = noted.lock().unwrap();
                match (head[3], head[4]) {
                    (DATA, _) => seen.data.push(stream),
                    (HEADERS, flags) => seen.headers.push((stream, flags & END_STREAM != 0)),
                    (RST_STREAM, _) => seen.resets.push(stream),
                    (SETTINGS | PING, 1) => seen.acknowledged += 1,
                    (GOAWAY, _) => {
                        let code = payload[4..8].try_into().unwrap();
                        seen.goaway = Some(u32::from_be_bytes(code));
                    }
                    _ => {}
                }
            }
        };
        #[allow(clippy::disallowed_methods, reason = "aborted with the connection")]
        let reading = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(reading));
        Self {
            write,
            seen,
            reading,
        }
    }

    /// Connects and says what a client says first.
    pub async fn greet(address: SocketAddr) -> Self {
        let mut wire = Self::connect(address).await;
        let first = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
        wire.say(&first).await.unwrap();
        wire
    }

    pub async fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write.write_all(bytes).await
    }

    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    pub fn has_ended(&self) -> bool {
        self.reading.is_finished()
    }

    /// Waits until the other side has ended the connection.
    pub async fn ended(self) -> Seen {
        let Self {
            write,
            seen,
            reading,
        } = self;
        let ended = tokio::time::timeout(Duration::from_mins(1), reading).await;
        ended.expect("the connection is ended").unwrap();
        drop(write);
        let seen = seen.lock().unwrap();
        seen.clone()
    }
}
