//! Messages down as the server sends them: framed for gRPC, each in memory of exactly its size, so that a stream on which nothing happens
//! keeps none. People in them are encoded once, whatever number of streams they are told to.

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use prost::encoding;
use tonic::Streaming;
use tonic::codec::BufferSettings;
use tonic_prost::ProstCodec;

use super::v1;

/// Path of the call that opens a stream.
pub const WATCH: &str = "/presence.bridge.v1.PresenceService/Watch";

/// The other calls of the same service.
#[expect(
    clippy::pedantic,
    reason = "generated; the proto files document every message and field"
)]
pub mod server {
    include!(concat!(env!("OUT_DIR"), "/down/presence.bridge.v1.rs"));
}

/// Bytes a stream sets aside for messages up. An opening takes what it needs.
const SET_ASIDE: usize = 1 << 10;

/// What a suite says, read from a request; no message is longer than [`super::MAX_MESSAGE_UP`].
pub fn up<B>(body: B) -> Streaming<v1::WatchRequest>
where
    B: http_body::Body + Send + 'static,
    B::Error: Into<tonic::codegen::StdError>,
{
    let settings = BufferSettings::new(SET_ASIDE, 0);
    let decoder = ProstCodec::<v1::WatchResponse, _>::raw_decoder(settings);
    Streaming::new_request(decoder, body, None, Some(super::MAX_MESSAGE_UP))
}

/// Before each message: that it is not compressed, and its length.
const FRAME_HEADER: usize = 5;

/// Tags of [`v1::WatchResponse`] and of [`v1::Presences`].
const PRESENCES: u32 = 2;
const KIND: u32 = 1;
const PEOPLE: u32 = 2;
const SNAPSHOT_COMPLETE: u32 = 3;
const POSITION: u32 = 4;

/// A frame of this length, still without its message.
fn frame(length: usize) -> BytesMut {
    let mut frame = BytesMut::with_capacity(FRAME_HEADER + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).expect("a message is at most a megabyte"));
    frame
}

/// A message, framed. For people there is [`presences`].
pub fn message(response: v1::watch_response::Response) -> Bytes {
    let message = v1::WatchResponse {
        response: Some(response),
    };
    let mut frame = frame(message.encoded_len());
    message.encode_raw(&mut frame);
    frame.freeze()
}

/// Bytes of most people in a message, at most.
const PERSON: usize = 96;

/// Some people, encoded to be a part of any number of messages.
pub fn people(presences: impl IntoIterator<Item = v1::Presence>) -> Bytes {
    let presences = presences.into_iter();
    let mut encoded = BytesMut::with_capacity(presences.size_hint().0 * PERSON);
    for presence in presences {
        encoding::message::encode(PEOPLE, &presence, &mut encoded);
    }
    encoded.freeze()
}

/// The message [`v1::Presences`] of encoded people, framed.
pub fn presences(
    kind: v1::PresencesKind,
    people: &[Bytes],
    snapshot_complete: bool,
    position: v1::Position,
) -> Bytes {
    let kind = kind as i32;
    let complete = snapshot_complete.then_some(true);
    let length = encoding::int32::encoded_len(KIND, &kind)
        + people.iter().map(Bytes::len).sum::<usize>()
        + complete.map_or(0, |yes| {
            encoding::bool::encoded_len(SNAPSHOT_COMPLETE, &yes)
        })
        + encoding::message::encoded_len(POSITION, &position);
    let outside = encoding::key_len(PRESENCES) + encoding::encoded_len_varint(length as u64);
    let mut frame = frame(outside + length);
    encoding::encode_key(PRESENCES, encoding::WireType::LengthDelimited, &mut frame);
    encoding::encode_varint(length as u64, &mut frame);
    encoding::int32::encode(KIND, &kind, &mut frame);
    for some in people {
        frame.extend_from_slice(some);
    }
    if let Some(yes) = complete {
        encoding::bool::encode(SNAPSHOT_COMPLETE, &yes, &mut frame);
    }
    encoding::message::encode(POSITION, &position, &mut frame);
    frame.freeze()
}

#[cfg(test)]
mod tests {
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

    /// The message in a frame that has the length it says.
    fn framed(frame: &Bytes) -> v1::WatchResponse {
        let (header, message) = frame.split_at(FRAME_HEADER);
        assert_eq!(header[0], 0, "not compressed");
        let length = u32::from_be_bytes(header[1..].try_into().unwrap());
        assert_eq!(length as usize, message.len());
        v1::WatchResponse::decode(message).unwrap()
    }

    #[test]
    fn what_is_put_together_from_parts_reads_as_one_message_of_the_contract() {
        let position = v1::Position {
            epoch: 7,
            sequence: 9,
        };
        for (kind, complete, many) in [
            (v1::PresencesKind::Snapshot, true, 2),
            (v1::PresencesKind::Change, false, 200),
        ] {
            let some: Vec<_> = (0..many).map(person).collect();
            let parts = [people(some.clone()), people([]), people([person(300)])];
            let expected = v1::Presences {
                kind: kind as i32,
                presences: some.into_iter().chain([person(300)]).collect(),
                snapshot_complete: complete,
                position: Some(position),
            };
            assert_eq!(
                framed(&presences(kind, &parts, complete, position)).response,
                Some(v1::watch_response::Response::Presences(expected))
            );
        }
    }

    #[test]
    fn everything_else_is_framed_as_it_is() {
        let heartbeat = v1::watch_response::Response::Heartbeat(v1::Heartbeat {
            position: Some(v1::Position::default()),
            ..v1::Heartbeat::default()
        });
        assert_eq!(
            framed(&message(heartbeat.clone())).response,
            Some(heartbeat)
        );
    }
}
