//! One stream: what the suite says is applied, what waits in its mailbox is sent.
//!
//! One task drives both directions. At most one message is ahead of the reader, so that a slow one costs no more than its mailbox.

use std::sync::Arc;
use std::time::Duration;

use governor::{Quota, RateLimiter};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::{Code, Status, Streaming};

use super::StreamSettings;
use super::auth::{Authenticator, SuiteIdentity};
use crate::clock::Clock;
use crate::cloud::directory::StreamId;
use crate::cloud::hub::mailbox::{Delivery, End, EndReason, Freshness, Mailbox, Parcel};
use crate::cloud::hub::{Opened, Purpose, Reserved};
use crate::cloud::listener::Peer;
use crate::cloud::metrics::{Metrics, StreamEnd};
use crate::cloud::poller::Tenant;
use crate::model::{Position, Sequence, SuiteId};
use crate::wire::{self, v1};

/// The whole opening must come within this time.
const OPENING: Duration = Duration::from_secs(30);

/// Most people named in an opening, whatever the plan. `security-and-faults.md` §5.
const MAX_OPENING: usize = 50_000;

/// Most messages that continue an opening.
const MAX_OPENING_MESSAGES: u32 = 256;

/// A stream outlives its credential by this much.
const CREDENTIAL_GRACE: Duration = Duration::from_secs(20);

/// The last words are waited for this long.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Messages up: 50 a second, 200 at once. `security-and-faults.md` §4.
const MESSAGES_PER_SECOND: u32 = 50;
const MESSAGES_AT_ONCE: u32 = 200;

/// Longest version text of a client.
const MAX_VERSION_BYTES: usize = 100;

/// A stream's place, given back when this is dropped.
pub(super) struct Place {
    tenant: Arc<Tenant>,
    id: StreamId,
    mailbox: Arc<Mailbox>,
}

impl Place {
    /// `None` when the suite has as many streams as `max_streams`.
    pub(super) fn reserve(
        tenant: &Arc<Tenant>,
        suite: SuiteId,
        purpose: Purpose,
        max_streams: usize,
    ) -> Option<Self> {
        let max_watched = tenant.row().max_watched as usize;
        let reserved =
            tenant.with_hub(|hub, _, _| hub.reserve(suite, max_watched, purpose, max_streams))?;
        Some(Self {
            tenant: Arc::clone(tenant),
            id: reserved.id,
            mailbox: reserved.mailbox,
        })
    }

    pub(super) fn begin(&self, names: &[String], resume: Option<Position>) -> Opened {
        let reserved = Reserved {
            id: self.id,
            mailbox: Arc::clone(&self.mailbox),
        };
        self.tenant
            .with_hub(|hub, known, now| hub.begin(reserved, names, resume, known, now))
    }

    pub(super) fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.tenant
            .with_hub(|hub, known, now| hub.close(self.id, known, now));
    }
}

/// A suite that simply goes away is no error; what it sends and cannot be read is.
fn unless_gone(
    message: Result<Option<v1::WatchRequest>, Status>,
) -> Result<Option<v1::WatchRequest>, Status> {
    match message {
        Err(status) if matches!(status.code(), Code::Cancelled | Code::Unknown) => Ok(None),
        other => other,
    }
}

/// Names must be few and short enough; whether they are UPNs is answered in coverage.
pub(super) fn check_names(names: &[String]) -> Result<(), Status> {
    if names.len() > wire::MAX_UPNS_PER_MESSAGE {
        return Err(Status::invalid_argument(format!(
            "{} names in one message; at most {} are allowed: send the rest in further messages",
            names.len(),
            wire::MAX_UPNS_PER_MESSAGE
        )));
    }
    Ok(())
}

pub(super) struct Conversation {
    pub identity: SuiteIdentity,
    pub peer: Option<Peer>,
    pub tenant: Arc<Tenant>,
    pub place: Place,
    pub auth: Arc<Authenticator>,
    pub clock: Clock,
    pub settings: StreamSettings,
    pub metrics: Arc<Metrics>,
    pub up: Streaming<v1::WatchRequest>,
    pub down: mpsc::Sender<Result<v1::WatchResponse, Status>>,
}

impl Conversation {
    /// Until either side ends it.
    pub(super) async fn run(mut self) {
        let outcome = self.converse().await;
        self.metrics
            .stream_ended(match (self.place.mailbox().end_reason(), &outcome) {
                (Some(reason), _) => StreamEnd::Ours(reason),
                (None, Ok(())) => StreamEnd::SuiteLeft,
                (None, Err(status)) if status.code() == Code::Cancelled => StreamEnd::SuiteLeft,
                (None, Err(_)) => StreamEnd::Refused,
            });
        if let Err(status) = outcome {
            tracing::info!(
                suite.id = %self.identity.suite, tenant.id = %self.identity.tenant, code = ?status.code(), "a stream ended"
            );
            let _ = tokio::time::timeout(LAST_WORDS, self.down.send(Err(status))).await;
        }
    }

    async fn converse(&mut self) -> Result<(), Status> {
        let open = self.opening().await?;
        let max = self.tenant.row().max_watched;
        let opened = self
            .place
            .begin(&open.watch, open.resume.map(Position::from));
        self.metrics.stream_opened(opened.resumed);
        let id = self.place.id;
        self.tenant
            .with_hub(|hub, _, now| hub.introduce(id, &open.agent_version, now));
        tracing::info!(
            suite.id = %self.identity.suite, tenant.id = %self.identity.tenant, stream.resumed = opened.resumed,
            client = %open.agent_version.escape_default(), "a suite opened a stream"
        );
        self.send(v1::watch_response::Response::Opened(v1::Opened {
            protocol_version: wire::PROTOCOL_VERSION,
            position: Some(wire::position(opened.position)),
            resumed: opened.resumed,
            heartbeat_interval: Some(wire::duration(self.settings.heartbeat)),
            max_watched: max,
        }))
        .await?;
        // Where the suite may resume: what was taken from the mailbox counts only when it is on its way.
        let mut sent = match open.resume.map(Position::from) {
            Some(resume) if opened.resumed => resume,
            _ => Position {
                sequence: Sequence(0),
                ..opened.position
            },
        };
        let quota = Quota::per_second(MESSAGES_PER_SECOND.try_into().expect("not zero"))
            .allow_burst(MESSAGES_AT_ONCE.try_into().expect("not zero"));
        let limiter = RateLimiter::direct(quota);
        let age = self
            .settings
            .maximum_age
            .mul_f64(0.75 + fastrand::f64() / 2.0);
        let grows_old = tokio::time::sleep(age);
        tokio::pin!(grows_old);
        let mut up_is_open = true;
        let mut next_heartbeat = Instant::now() + self.settings.heartbeat;
        let mut parcel = None;
        loop {
            if parcel.is_none() {
                parcel = self.place.mailbox().take();
            }
            if parcel.is_none() && Instant::now() >= next_heartbeat {
                parcel = self
                    .place
                    .mailbox()
                    .freshness()
                    .map(|(f, p)| Parcel::Freshness(f, p));
                next_heartbeat = Instant::now() + self.settings.heartbeat;
            }
            if let Some(Parcel::End(end)) = parcel {
                return self.farewell(end, sent).await;
            }
            let expires = self
                .clock
                .now()
                .until(self.identity.expires_at.plus(CREDENTIAL_GRACE));
            let down = self.down.clone();
            tokio::select! {
                message = self.up.message(), if up_is_open => match unless_gone(message)? {
                    None => up_is_open = false,
                    Some(message) => {
                        self.apply(message).await?;
                        // Who says too much is listened to more slowly.
                        while let Err(not_until) = limiter.check() {
                            let clock = governor::clock::DefaultClock::default();
                            tokio::time::sleep(not_until.wait_time_from(governor::clock::Clock::now(&clock))).await;
                        }
                    }
                },
                permit = down.reserve(), if parcel.is_some() => {
                    let Ok(permit) = permit else { return Ok(()) };
                    if let Some(parcel) = parcel.take() {
                        if matches!(parcel, Parcel::Freshness(..)) {
                            next_heartbeat = Instant::now() + self.settings.heartbeat;
                        }
                        if let Parcel::Values { position, .. } | Parcel::Freshness(_, position) = &parcel {
                            sent = *position;
                        }
                        permit.send(Ok(v1::WatchResponse { response: Some(self.translate(parcel)) }));
                    }
                }
                () = self.place.mailbox().ready() => {
                    // Only the end may overtake a message that the suite does not take.
                    if self.place.mailbox().has_ended() {
                        parcel = None;
                    }
                }
                () = tokio::time::sleep_until(next_heartbeat), if parcel.is_none() => {}
                () = &mut grows_old => {
                    self.place.mailbox().end(End { reason: EndReason::MaximumAge, reconnect_after: Some(Duration::ZERO) });
                }
                () = tokio::time::sleep(expires) => {
                    self.place.mailbox().end(End { reason: EndReason::CredentialExpired, reconnect_after: Some(Duration::ZERO) });
                    parcel = None;
                }
                () = down.closed() => return Ok(()),
            }
        }
    }

    /// The opening, unless the stream is to end before it is complete. Nothing has been said until then, so that a status is all
    /// that can be said about the end.
    async fn opening(&mut self) -> Result<v1::Open, Status> {
        let expires = self
            .clock
            .now()
            .until(self.identity.expires_at.plus(CREDENTIAL_GRACE));
        let (mailbox, down) = (Arc::clone(&self.place.mailbox), self.down.clone());
        tokio::select! {
            opening = self.first_message() => opening,
            () = tokio::time::sleep(OPENING) => {
                Err(Status::deadline_exceeded("the opening must come within thirty seconds"))
            }
            () = tokio::time::sleep(expires) => Err(farewell_of(EndReason::CredentialExpired).1),
            reason = mailbox.ended() => Err(farewell_of(reason).1),
            () = down.closed() => Err(Status::cancelled("the suite has gone")),
        }
    }

    /// `open`, and the `add`s that continue it.
    async fn first_message(&mut self) -> Result<v1::Open, Status> {
        use v1::watch_request::Request;
        let Some(Request::Open(mut open)) = self.next_of_opening().await? else {
            return Err(Status::invalid_argument("the first message must be open"));
        };
        if open.protocol_version == 0 {
            return Err(Status::invalid_argument(
                "open.protocol_version is missing; this server speaks version 1",
            ));
        }
        if open.agent_version.len() > MAX_VERSION_BYTES {
            return Err(Status::invalid_argument(
                "open.agent_version is longer than 100 bytes",
            ));
        }
        check_names(&open.watch)?;
        if open.continued_in_adds > MAX_OPENING_MESSAGES {
            return Err(Status::invalid_argument(format!(
                "an opening is continued in at most {MAX_OPENING_MESSAGES} add messages"
            )));
        }
        for _ in 0..open.continued_in_adds {
            let Some(Request::Add(more)) = self.next_of_opening().await? else {
                return Err(Status::invalid_argument(
                    "open.continued_in_adds promised more add messages",
                ));
            };
            check_names(&more.upns)?;
            open.watch.extend(more.upns);
            if open.watch.len() > MAX_OPENING {
                return Err(Status::invalid_argument(format!(
                    "an opening names at most {MAX_OPENING} people"
                )));
            }
        }
        Ok(open)
    }

    async fn next_of_opening(&mut self) -> Result<Option<v1::watch_request::Request>, Status> {
        let message = self.up.message().await?;
        Ok(message.and_then(|message| message.request))
    }

    async fn apply(&mut self, message: v1::WatchRequest) -> Result<(), Status> {
        use v1::watch_request::Request;
        let id = self.place.id;
        match message.request {
            Some(Request::Open(_)) => Err(Status::invalid_argument(
                "open may only be the first message of a stream",
            )),
            Some(Request::Add(list)) => {
                check_names(&list.upns)?;
                self.tenant
                    .with_hub(|hub, known, now| hub.add(id, &list.upns, known, now));
                Ok(())
            }
            Some(Request::Remove(list)) => {
                check_names(&list.upns)?;
                self.tenant
                    .with_hub(|hub, known, now| hub.remove(id, &list.upns, known, now));
                Ok(())
            }
            Some(Request::Replace(list)) => {
                check_names(&list.upns)?;
                self.tenant
                    .with_hub(|hub, known, now| hub.replace(id, &list.upns, known, now));
                Ok(())
            }
            Some(Request::RenewCredential(renewal)) => {
                let identity = self.auth.identify_token(&renewal.token, self.peer).await?;
                if (identity.suite, identity.tenant) != (self.identity.suite, self.identity.tenant)
                {
                    return Err(Status::unauthenticated(
                        "the fresh credential is another suite's",
                    ));
                }
                self.identity = identity;
                Ok(())
            }
            // A message of a later version of the contract: not understood, not harmful.
            None => Ok(()),
        }
    }

    async fn send(&self, response: v1::watch_response::Response) -> Result<(), Status> {
        let message = v1::WatchResponse {
            response: Some(response),
        };
        self.down
            .send(Ok(message))
            .await
            .map_err(|_| Status::cancelled("the suite has gone"))
    }

    async fn farewell(&self, end: End, position: Position) -> Result<(), Status> {
        let (reason, status) = farewell_of(end.reason);
        let message = v1::watch_response::Response::GoAway(v1::GoAway {
            reason: reason as i32,
            detail: status.message().to_owned(),
            reconnect: end.reconnect_after.is_some(),
            reconnect_after: end.reconnect_after.map(wire::duration),
            position: Some(wire::position(position)),
        });
        match tokio::time::timeout(LAST_WORDS, self.send(message)).await {
            Ok(Ok(())) => Err(status),
            // Nobody reads: the stream is simply dropped.
            Ok(Err(_)) | Err(_) => Ok(()),
        }
    }

    fn translate(&self, parcel: Parcel) -> v1::watch_response::Response {
        use v1::watch_response::Response;
        match parcel {
            Parcel::Values {
                snapshot,
                values,
                snapshot_complete,
                position,
            } => {
                if !snapshot {
                    let now = self.clock.now();
                    // What came with one answer stands together, and has one moment.
                    for of_one in values.chunk_by(|a, b| a.value.changed_at == b.value.changed_at) {
                        // A value that was known before and is told anew, because the name has moved, is no news that came late.
                        let fresh = of_one
                            .iter()
                            .filter(|v| v.value.changed_at == v.confirmed_at);
                        self.metrics
                            .lag(of_one[0].value.changed_at.until(now), fresh.count());
                    }
                }
                let kind = if snapshot {
                    v1::PresencesKind::Snapshot
                } else {
                    v1::PresencesKind::Change
                };
                Response::Presences(v1::Presences {
                    kind: kind as i32,
                    presences: values.iter().map(presence).collect(),
                    snapshot_complete,
                    position: Some(wire::position(position)),
                })
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
            Parcel::End(..) => unreachable!("handled before"),
        }
    }
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
