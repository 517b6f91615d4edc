//! Messages down as the server sends them: on the wire the same as [`v1::WatchResponse`], but the people in them are encoded already, so
//! that what many streams are told is encoded once.

use std::marker::PhantomData;

use bytes::{Bytes, BytesMut};
use prost::encoding;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::ProstCodec;

use super::v1;

/// Bytes a stream sets aside for a message up and one down: most of the time nothing happens on it, and thousands are open. What is
/// longer takes what it needs.
const SET_ASIDE: usize = 1 << 10;

/// Bytes of messages that go out together, as by default.
const TOGETHER: usize = 32 << 10;

/// As [`ProstCodec`], but it sets little memory aside.
#[derive(Debug, Clone)]
pub struct SmallBuffers<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallBuffers<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for SmallBuffers<T, U>
where
    T: prost::Message + Send + 'static,
    U: prost::Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = <ProstCodec<T, U> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(SET_ASIDE, TOGETHER))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(SET_ASIDE, TOGETHER))
    }
}

/// The server of streams, generated with [`WatchResponse`].
#[expect(
    clippy::pedantic,
    reason = "generated; the proto files document every message and field"
)]
pub mod server {
    include!(concat!(env!("OUT_DIR"), "/down/presence.bridge.v1.rs"));
}

/// [`v1::WatchResponse`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct WatchResponse {
    /// What is said.
    #[prost(oneof = "Response", tags = "1, 2, 3, 4, 5, 6")]
    pub response: Option<Response>,
}

/// What is said.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Response {
    /// Always the first message.
    #[prost(message, tag = "1")]
    Opened(v1::Opened),
    /// Values of people: see [`presences`].
    #[prost(bytes = "bytes", tag = "2")]
    Presences(Bytes),
    /// Coverage of people.
    #[prost(message, tag = "3")]
    Coverage(v1::Coverage),
    /// The tenant's connection.
    #[prost(message, tag = "4")]
    TenantStatus(v1::TenantStatus),
    /// How fresh everything is.
    #[prost(message, tag = "5")]
    Heartbeat(v1::Heartbeat),
    /// Always the last message.
    #[prost(message, tag = "6")]
    GoAway(v1::GoAway),
}

/// Tags of [`v1::Presences`].
const KIND: u32 = 1;
const PEOPLE: u32 = 2;
const SNAPSHOT_COMPLETE: u32 = 3;
const POSITION: u32 = 4;

/// Some people, encoded to be a part of any number of messages.
pub fn people(presences: impl IntoIterator<Item = v1::Presence>) -> Bytes {
    let mut encoded = BytesMut::new();
    for presence in presences {
        encoding::message::encode(PEOPLE, &presence, &mut encoded);
    }
    encoded.freeze()
}

/// [`v1::Presences`] of encoded people.
pub fn presences(
    kind: v1::PresencesKind,
    people: &[Bytes],
    snapshot_complete: bool,
    position: v1::Position,
) -> Response {
    const REST: usize = 64;
    let mut encoded = BytesMut::with_capacity(people.iter().map(Bytes::len).sum::<usize>() + REST);
    encoding::int32::encode(KIND, &(kind as i32), &mut encoded);
    for some in people {
        encoded.extend_from_slice(some);
    }
    if snapshot_complete {
        encoding::bool::encode(SNAPSHOT_COMPLETE, &true, &mut encoded);
    }
    encoding::message::encode(POSITION, &position, &mut encoded);
    Response::Presences(encoded.freeze())
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    fn person(n: u64) -> v1::Presence {
        v1::Presence {
            upn: format!("p{n}@contoso.example"),
            availability: 3,
            sequence: n,
            out_of_office: Some(n == 2),
            ..v1::Presence::default()
        }
    }

    #[test]
    fn what_is_put_together_from_parts_reads_as_one_message_of_the_contract() {
        let position = v1::Position {
            epoch: 7,
            sequence: 9,
        };
        for (kind, complete) in [
            (v1::PresencesKind::Snapshot, true),
            (v1::PresencesKind::Change, false),
        ] {
            let parts = [
                people([person(1), person(2)]),
                people([]),
                people([person(3)]),
            ];
            let sent = WatchResponse {
                response: Some(presences(kind, &parts, complete, position)),
            };
            let read = v1::WatchResponse::decode(&*sent.encode_to_vec()).unwrap();
            let expected = v1::Presences {
                kind: kind as i32,
                presences: vec![person(1), person(2), person(3)],
                snapshot_complete: complete,
                position: Some(position),
            };
            assert_eq!(
                read.response,
                Some(v1::watch_response::Response::Presences(expected))
            );
        }
    }

    #[test]
    fn everything_else_is_encoded_as_the_contract_says() {
        use v1::watch_response::Response as Contract;
        let opened = v1::Opened {
            max_watched: 5,
            ..v1::Opened::default()
        };
        let status = v1::TenantStatus {
            cause: "why".into(),
            ..v1::TenantStatus::default()
        };
        let heartbeat = v1::Heartbeat {
            position: Some(v1::Position::default()),
            ..v1::Heartbeat::default()
        };
        let go_away = v1::GoAway {
            reconnect: true,
            ..v1::GoAway::default()
        };
        let coverage = v1::Coverage {
            people: vec![v1::PersonCoverage::default()],
        };
        for (down, contract) in [
            (Response::Opened(opened), Contract::Opened(opened)),
            (
                Response::TenantStatus(status.clone()),
                Contract::TenantStatus(status.clone()),
            ),
            (
                Response::Heartbeat(heartbeat.clone()),
                Contract::Heartbeat(heartbeat.clone()),
            ),
            (
                Response::GoAway(go_away.clone()),
                Contract::GoAway(go_away.clone()),
            ),
            (
                Response::Coverage(coverage.clone()),
                Contract::Coverage(coverage.clone()),
            ),
        ] {
            let down = WatchResponse {
                response: Some(down),
            };
            let contract = v1::WatchResponse {
                response: Some(contract),
            };
            assert_eq!(down.encode_to_vec(), contract.encode_to_vec());
        }
    }
}
