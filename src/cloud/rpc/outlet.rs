//! What waits in a stream's mailbox, as the body of the answer to the suite's call.
//!
//! The connection asks for the next message when the one before has gone, and only then is anything taken: one message at most is ahead of
//! the reader, so a slow one costs that and its mailbox, and a change costs one wake-up.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use smallvec::SmallVec;
use tokio::sync::mpsc;
use tonic::Status;

use crate::clock::Clock;
use crate::cloud::hub::mailbox::{Batch, Delivery, End, EndReason, Freshness, Mailbox, Parcel};
use crate::cloud::metrics::Metrics;
use crate::model::Position;
use crate::wire::v1::watch_response::Response;
use crate::wire::{self, down, v1};

/// What is said besides what is in the mailbox.
pub(super) enum Word {
    /// The stream is open; and what the suite holds already: where it may resume as long as it gets nothing.
    Opened(v1::Opened, Position),
    /// Why the stream ends.
    Ends(Status),
}

/// A word on its way. In a box, because a channel sets room for thirty-two of them aside.
pub(super) type Words = mpsc::Sender<Box<Word>>;

/// What comes out next.
enum State {
    /// The opening is awaited.
    Opening,
    /// Where the suite may resume: what it was given last.
    Open(Position),
    /// The last message has gone out; this is how the call ends.
    Ends(Status),
    /// Nothing comes any more.
    Ended,
}

/// The messages of one stream.
pub struct Outlet {
    state: State,
    words: mpsc::Receiver<Box<Word>>,
    mailbox: Arc<Mailbox>,
    clock: Clock,
    metrics: Arc<Metrics>,
}

impl Outlet {
    /// For what is put into this mailbox; and where to say that the stream is open, or why it ends.
    pub(super) fn new(mailbox: Arc<Mailbox>, clock: Clock, metrics: Arc<Metrics>) -> (Self, Words) {
        // Open, and why it ends.
        let (to_us, words) = mpsc::channel(2);
        let outlet = Self {
            state: State::Opening,
            words,
            mailbox,
            clock,
            metrics,
        };
        (outlet, to_us)
    }

    /// As a framed message; `held` is what the suite was given before.
    fn translate(&self, parcel: Parcel, held: Position) -> Bytes {
        down::message(match parcel {
            Parcel::Batches(batches, position) => {
                // All of it came with one answer.
                let first = batches.first().and_then(|batch| batch.values().next());
                if let Some((_, first)) = first {
                    let now = self.clock.now();
                    self.metrics.lag(first.value.changed_at.until(now));
                }
                let encode = |batch: &Batch| {
                    down::people(batch.values().map(|(_, delivery)| presence(delivery)))
                };
                let people: SmallVec<[Bytes; 4]> = batches
                    .iter()
                    .map(|batch| batch.encoded(encode).clone())
                    .collect();
                let kind = v1::PresencesKind::Change;
                return down::presences(kind, &people, false, wire::position(position));
            }
            Parcel::Values {
                snapshot,
                values,
                snapshot_complete,
                position,
            } => {
                if !snapshot {
                    let now = self.clock.now();
                    // A value that was known before and is told anew, because the name has moved, is no news that came late.
                    let news = values
                        .iter()
                        .filter(|v| v.value.changed_at == v.confirmed_at);
                    if let Some(first) = news.map(|v| v.value.changed_at).min() {
                        self.metrics.lag(first.until(now));
                    }
                }
                let kind = if snapshot {
                    v1::PresencesKind::Snapshot
                } else {
                    v1::PresencesKind::Change
                };
                let people = down::people(values.iter().map(presence));
                let position = wire::position(position);
                return down::presences(kind, &[people], snapshot_complete, position);
            }
            Parcel::Coverage(people) => Response::Coverage(v1::Coverage {
                people: people
                    .into_iter()
                    .map(|(asked, state, since)| wire::person_coverage(&asked, state, since))
                    .collect(),
            }),
            Parcel::Status(health, cadence) => {
                Response::TenantStatus(wire::health(&health, cadence))
            }
            Parcel::Freshness(Freshness { as_of, exceptions }, position) => {
                Response::Heartbeat(v1::Heartbeat {
                    confirmed_as_of: as_of.map(wire::timestamp),
                    exceptions: exceptions
                        .into_iter()
                        .map(|(upn, at)| v1::ConfirmedException {
                            upn: upn.to_string(),
                            confirmed_at: Some(wire::timestamp(at)),
                        })
                        .collect(),
                    position: Some(wire::position(position)),
                    sent_at: Some(wire::timestamp(self.clock.now())),
                })
            }
            Parcel::End(end) => farewell(end, held),
        })
    }

    /// The next message, or how the call ends; then the state is [`State::Ended`].
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Status>> {
        let held = match std::mem::replace(&mut self.state, State::Ended) {
            State::Open(held) => held,
            State::Opening => {
                self.state = State::Opening;
                let word = ready!(self.words.poll_recv(cx));
                self.state = State::Ended;
                return match word.map(|word| *word) {
                    Some(Word::Opened(opened, held)) => {
                        self.state = State::Open(held);
                        Poll::Ready(Ok(down::message(Response::Opened(opened))))
                    }
                    Some(Word::Ends(status)) => Poll::Ready(Err(status)),
                    None => Poll::Ready(Err(lost())),
                };
            }
            State::Ends(status) => return Poll::Ready(Err(status)),
            State::Ended => return Poll::Ready(Err(lost())),
        };
        self.state = State::Open(held);
        let Some(parcel) = ready!(self.mailbox.poll_take(cx)) else {
            // Nobody puts anything in any more, because nobody listens to the suite: it is said there why.
            let word = ready!(self.words.poll_recv(cx)).map(|word| *word);
            self.state = State::Ended;
            return Poll::Ready(Err(match word {
                Some(Word::Ends(status)) => status,
                Some(Word::Opened(..)) | None => lost(),
            }));
        };
        self.state = match &parcel {
            Parcel::End(end) => State::Ends(farewell_of(end.reason).1),
            Parcel::Values { position, .. }
            | Parcel::Batches(_, position)
            | Parcel::Freshness(_, position) => State::Open(*position),
            _ => State::Open(held),
        };
        Poll::Ready(Ok(self.translate(parcel, held)))
    }
}

impl Body for Outlet {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.is_end_stream() {
            return Poll::Ready(None);
        }
        let frame = match ready!(self.poll_message(cx)) {
            Ok(message) => Frame::data(message),
            Err(status) => {
                let mut trailers = HeaderMap::new();
                status.add_header(&mut trailers)?;
                Frame::trailers(trailers)
            }
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.state, State::Ended)
    }
}

/// The end of a stream whose conversation is gone without a word.
fn lost() -> Status {
    Status::unavailable("the stream was lost; come back")
}

/// The last message.
fn farewell(end: End, held: Position) -> Response {
    let (reason, status) = farewell_of(end.reason);
    Response::GoAway(v1::GoAway {
        reason: reason as i32,
        detail: status.message().to_owned(),
        reconnect: end.reconnect_after.is_some(),
        reconnect_after: end.reconnect_after.map(wire::duration),
        position: Some(wire::position(held)),
    })
}

/// How an end is told.
pub(super) fn farewell_of(reason: EndReason) -> (v1::GoAwayReason, Status) {
    match reason {
        EndReason::ShuttingDown => (
            v1::GoAwayReason::ShuttingDown,
            Status::unavailable("the server stops; come back"),
        ),
        EndReason::Revoked => (
            v1::GoAwayReason::Revoked,
            Status::permission_denied("this suite was revoked; enrol it again"),
        ),
        EndReason::CredentialExpired => (
            v1::GoAwayReason::CredentialExpired,
            Status::unauthenticated("the credential has expired; come back with a fresh one"),
        ),
        EndReason::TooSlow => (
            v1::GoAwayReason::TooSlow,
            Status::resource_exhausted(
                "too much waited, or waited for too long, to be read; come back",
            ),
        ),
        EndReason::MaximumAge => (
            v1::GoAwayReason::MaximumAge,
            Status::unavailable("the stream has lived its life; come back"),
        ),
        EndReason::TenantGone => (
            v1::GoAwayReason::TenantGone,
            Status::not_found("the organisation was disconnected"),
        ),
    }
}

pub(super) fn presence(delivery: &Delivery) -> v1::Presence {
    let value = &delivery.value;
    wire::presence(
        &delivery.asked,
        &value.presence,
        value.sequence,
        delivery.confirmed_at,
        value.changed_at,
    )
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use prost::Message as _;
    use tonic::Code;

    use super::*;
    use crate::model::{Epoch, Sequence};

    const NOWHERE: Position = Position {
        epoch: Epoch(1),
        sequence: Sequence(0),
    };

    /// An outlet whose stream is open.
    fn opened() -> (Outlet, Words, Arc<Mailbox>) {
        let mailbox = Arc::new(Mailbox::new(NOWHERE));
        let (outlet, words) = Outlet::new(Arc::clone(&mailbox), Clock::system(), Metrics::new());
        let word = Word::Opened(v1::Opened::default(), NOWHERE);
        words.try_send(Box::new(word)).ok().unwrap();
        (outlet, words, mailbox)
    }

    /// What is said, and how the call ends.
    async fn read_out(mut outlet: Outlet) -> (Vec<Response>, Status) {
        let mut said = Vec::new();
        while let Some(frame) = outlet.frame().await {
            match frame.unwrap().into_data() {
                Ok(message) => {
                    let message = v1::WatchResponse::decode(&message[5..]).unwrap();
                    said.extend(message.response);
                }
                Err(trailers) => {
                    assert!(outlet.is_end_stream());
                    let trailers = trailers.into_trailers().unwrap();
                    return (said, Status::from_header_map(&trailers).unwrap());
                }
            }
        }
        panic!("a call ends with a status");
    }

    #[tokio::test]
    async fn the_mailbox_knows_better_why_a_stream_ends() {
        for first in [true, false] {
            let (outlet, words, mailbox) = opened();
            let refused = Box::new(Word::Ends(Status::invalid_argument("a second open")));
            if first {
                words.try_send(refused).ok().unwrap();
                mailbox.end(End {
                    reason: EndReason::Revoked,
                    reconnect_after: None,
                });
            } else {
                mailbox.end(End {
                    reason: EndReason::Revoked,
                    reconnect_after: None,
                });
                words.try_send(refused).ok().unwrap();
            }
            mailbox.close();
            let (said, status) = read_out(outlet).await;
            assert_eq!(status.code(), Code::PermissionDenied);
            let Some(Response::GoAway(last)) = said.last() else {
                panic!("{said:?}");
            };
            assert_eq!(last.reason(), v1::GoAwayReason::Revoked);
        }
    }

    #[tokio::test]
    async fn what_the_suite_did_wrong_ends_the_call_behind_nothing() {
        let (outlet, words, mailbox) = opened();
        let refused = Status::invalid_argument("a second open");
        words.try_send(Box::new(Word::Ends(refused))).ok().unwrap();
        mailbox.close();
        let (said, status) = read_out(outlet).await;
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(matches!(said[..], [Response::Opened(_)]), "{said:?}");
    }

    #[tokio::test]
    async fn a_conversation_that_is_gone_without_a_word_is_no_orderly_end() {
        let (outlet, words, mailbox) = opened();
        // Its place is given back.
        mailbox.close();
        drop(words);
        let (said, status) = read_out(outlet).await;
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(said.len(), 1);
    }
}
