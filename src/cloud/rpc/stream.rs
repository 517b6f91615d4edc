//! One stream: what the suite says is applied, and when it ends. What waits in its mailbox is sent by the [`Outlet`](super::outlet).

use std::sync::Arc;
use std::time::Duration;

use governor::{Quota, RateLimiter};
use tonic::{Code, Status, Streaming};

use super::StreamSettings;
use super::auth::{Authenticator, SuiteIdentity};
use super::outlet::{Word, Words, farewell_of};
use crate::clock::Clock;
use crate::cloud::directory::StreamId;
use crate::cloud::hub::mailbox::{End, EndReason, Mailbox};
use crate::cloud::hub::{Opened, Purpose, Reserved};
use crate::cloud::listener::{Caller, Peer};
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

/// So long a suite has to take the last words. Then its connection is cut.
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

    pub(super) fn mailbox(&self) -> &Arc<Mailbox> {
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
    pub caller: Option<Caller>,
    pub tenant: Arc<Tenant>,
    pub place: Place,
    pub auth: Arc<Authenticator>,
    pub clock: Clock,
    pub settings: StreamSettings,
    pub metrics: Arc<Metrics>,
    pub up: Streaming<v1::WatchRequest>,
    pub words: Words,
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
            // What waits is not said any more, unless it is why we have ended the stream.
            self.place.mailbox().close();
            // There is room: one word at most is before it.
            let _ = self.words.try_send(Box::new(Word::Ends(status)));
        }
        self.until_it_is_gone().await;
    }

    /// Waits until what was said last has been read. Who does not read loses his connection: HTTP/2 keeps for him what is on its way, for
    /// as long as he likes. Until it is gone the stream is one of those the suite may have.
    async fn until_it_is_gone(&self) {
        if tokio::time::timeout(LAST_WORDS, self.words.closed())
            .await
            .is_err()
        {
            self.place.mailbox().close();
            if let Some(caller) = &self.caller {
                caller.cut();
            }
            self.words.closed().await;
        }
    }

    async fn converse(&mut self) -> Result<(), Status> {
        self.begin().await?;
        let quota = Quota::per_second(MESSAGES_PER_SECOND.try_into().expect("not zero"))
            .allow_burst(MESSAGES_AT_ONCE.try_into().expect("not zero"));
        let limiter = RateLimiter::direct(quota);
        let age = self
            .settings
            .maximum_age
            .mul_f64(0.75 + fastrand::f64() / 2.0);
        let grows_old = tokio::time::sleep(age);
        let heartbeat = tokio::time::sleep(self.settings.heartbeat);
        tokio::pin!(grows_old, heartbeat);
        let (mailbox, words) = (Arc::clone(self.place.mailbox()), self.words.clone());
        let mut up_is_open = true;
        loop {
            let expires = self
                .clock
                .now()
                .until(self.identity.expires_at.plus(CREDENTIAL_GRACE));
            let outdated = |reason| End {
                reason,
                reconnect_after: Some(Duration::ZERO),
            };
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
                () = &mut heartbeat => {
                    heartbeat.as_mut().reset(mailbox.repeat_freshness(self.settings.heartbeat));
                }
                () = &mut grows_old => mailbox.end(outdated(EndReason::MaximumAge)),
                () = tokio::time::sleep(expires) => mailbox.end(outdated(EndReason::CredentialExpired)),
                // The outlet says why.
                _ = mailbox.ended() => return Ok(()),
                () = words.closed() => return Ok(()),
            }
        }
    }

    /// The opening is heard, and the outlet begins.
    async fn begin(&mut self) -> Result<(), Status> {
        let open = self.opening().await?;
        let max_watched = self.tenant.row().max_watched;
        let resume = open.resume.map(Position::from);
        let opened = self.place.begin(&open.watch, resume);
        self.metrics.stream_opened(opened.resumed);
        let id = self.place.id;
        self.tenant
            .with_hub(|hub, _, now| hub.introduce(id, &open.agent_version, now));
        tracing::info!(
            suite.id = %self.identity.suite, tenant.id = %self.identity.tenant, stream.resumed = opened.resumed,
            client = %open.agent_version.escape_default(), "a suite opened a stream"
        );
        let nothing_yet = Position {
            sequence: Sequence(0),
            ..opened.position
        };
        let opened = v1::Opened {
            protocol_version: wire::PROTOCOL_VERSION,
            position: Some(wire::position(opened.position)),
            resumed: opened.resumed,
            heartbeat_interval: Some(wire::duration(self.settings.heartbeat)),
            max_watched,
        };
        let held = resume.filter(|_| opened.resumed).unwrap_or(nothing_yet);
        let word = Box::new(Word::Opened(opened, held));
        let gone = |_| Status::cancelled("the suite has gone");
        self.words.send(word).await.map_err(gone)
    }

    /// The opening, unless the stream is to end before it is complete. Nothing has been said until then, so that a status is all
    /// that can be said about the end.
    async fn opening(&mut self) -> Result<v1::Open, Status> {
        let expires = self
            .clock
            .now()
            .until(self.identity.expires_at.plus(CREDENTIAL_GRACE));
        let (mailbox, words) = (Arc::clone(&self.place.mailbox), self.words.clone());
        tokio::select! {
            opening = self.first_message() => opening,
            () = tokio::time::sleep(OPENING) => {
                Err(Status::deadline_exceeded("the opening must come within thirty seconds"))
            }
            () = tokio::time::sleep(expires) => Err(farewell_of(EndReason::CredentialExpired).1),
            reason = mailbox.ended() => Err(farewell_of(reason).1),
            () = words.closed() => Err(Status::cancelled("the suite has gone")),
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
}
