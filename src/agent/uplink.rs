//! Keeps a stream to the cloud: connects, resumes where it broke, backs off.
//!
//! One task. What it knows is in a shared [`View`]; what happens goes to a bounded channel, whose reader may be slow: the cloud then
//! keeps the newest value per person.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::connection::{Explained, explain};
use super::identity::{AGENT_VERSION, CREDENTIAL_LIFE, Identity};
use super::view::{Event, View};
use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::wire::{self, v1};

/// Messages up that may wait to be sent.
const UP_QUEUE: usize = 16;

/// Without a message for so many heartbeat intervals the stream is dead.
const MISSED_HEARTBEATS: u32 = 3;

/// Until the cloud has told its interval.
const FIRST_ANSWER: Duration = Duration::from_secs(30);

/// Names per message up, so that even the longest fit into 256 KiB.
const NAMES_PER_MESSAGE: usize = 700;

/// Heartbeats are not expected more often than this, whatever the cloud says.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(50);

/// A stream that has lasted this long counts as a success: the next failure begins a new backoff.
const STABLE: Duration = Duration::from_mins(1);

/// A stream that was sent away before this time has not been of use.
const BRIEF: Duration = Duration::from_secs(2);

/// Sent away without being told when to come back, come back within this time. `security-and-faults.md` §6.
const GO_AWAY_SPREAD: Duration = Duration::from_secs(10);

/// Spread of those who were told the same time to come back.
const TOLD_SPREAD: Duration = Duration::from_millis(500);

/// After a failure the key is tried to be renewed again after this time, unless the stream breaks before.
const RENEW_AGAIN: Duration = Duration::from_mins(10);

/// How a link behaves.
#[derive(Debug, Clone)]
pub struct UplinkSettings {
    /// Waits between tries: base and cap.
    pub backoff: (Duration, Duration),
}

impl Default for UplinkSettings {
    fn default() -> Self {
        Self {
            backoff: (Duration::from_secs(1), Duration::from_mins(1)),
        }
    }
}

/// Shared by the link and those who look at it.
#[derive(Clone)]
pub struct UplinkHandle {
    view: Arc<Mutex<View>>,
    list: watch::Sender<Vec<String>>,
}

impl UplinkHandle {
    /// What is known now.
    pub fn view(&self) -> MutexGuard<'_, View> {
        self.view
            .lock()
            .expect("nothing panics while holding the view")
    }

    /// Watches these people, too. Who is watched already is left as is.
    pub fn add(&self, upns: impl IntoIterator<Item = String>) {
        self.list.send_modify(|list| list.extend(upns));
    }

    /// Watches these people no longer.
    pub fn remove(&self, upns: &[String]) {
        let gone: HashSet<String> = upns.iter().map(|upn| upn.to_lowercase()).collect();
        self.list
            .send_modify(|list| list.retain(|upn| !gone.contains(&upn.to_lowercase())));
    }

    /// Watches exactly these people from now on.
    pub fn replace(&self, upns: Vec<String>) {
        self.list.send_replace(upns);
    }
}

/// A link that is to be run.
pub struct Uplink {
    identity: Identity,
    clock: Clock,
    settings: UplinkSettings,
    seed: u64,
    /// A fresh credential is presented this often.
    renew_every: Duration,
    /// Where the identity is kept, and at which age its key is replaced.
    kept: Option<(PathBuf, Duration)>,
    handle: UplinkHandle,
    list: watch::Receiver<Vec<String>>,
    events: mpsc::Sender<Event>,
}

/// Why one stream ended.
enum Ended {
    Stopped,
    GoAway(v1::GoAway),
    Failed(Explained, Code),
    NobodyListens,
}

impl Uplink {
    /// A link that watches these people, and where its events come out.
    pub fn new(
        identity: Identity,
        upns: Vec<String>,
        clock: Clock,
        settings: UplinkSettings,
        seed: u64,
    ) -> (Self, mpsc::Receiver<Event>) {
        let (events, receiver) = mpsc::channel(1024);
        let mut view = View::default();
        view.set_watched(&upns);
        let (sender, list) = watch::channel(upns);
        let handle = UplinkHandle {
            view: Arc::new(Mutex::new(view)),
            list: sender,
        };
        (
            Self {
                identity,
                clock,
                settings,
                seed,
                renew_every: CREDENTIAL_LIFE * 2 / 3,
                kept: None,
                handle,
                list,
                events,
            },
            receiver,
        )
    }

    /// The identity is kept in this folder: its key is replaced at this age, and one that somebody else has put there is taken over.
    #[must_use]
    pub fn keeping_identity_in(mut self, state: PathBuf, renew_key_after: Duration) -> Self {
        self.kept = Some((state, renew_key_after));
        self
    }

    /// To look at the link and to change the watch list.
    pub fn handle(&self) -> UplinkHandle {
        self.handle.clone()
    }

    /// Until `stop`, or until trying again cannot help.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Explained> {
        let mut channel = self.identity.cloud.channel()?;
        let (base, cap) = self.settings.backoff;
        let mut backoff = Backoff::new(base, cap, self.seed);
        let mut rng = fastrand::Rng::with_seed(self.seed);
        loop {
            let began = Instant::now();
            let ended = tokio::select! {
                () = stop.cancelled() => Ended::Stopped,
                ended = self.stream(channel.clone()) => ended,
            };
            self.handle.view().disconnected();
            if matches!(&ended, Ended::Failed(_, Code::Unauthenticated))
                && self.take_over_identity()
            {
                channel = self.identity.cloud.channel()?;
            }
            if began.elapsed() >= STABLE {
                backoff.reset();
            }
            let (why, wait) = match ended {
                Ended::Stopped | Ended::NobodyListens => return Ok(()),
                Ended::GoAway(away) if away.reconnect => {
                    let told = away
                        .reconnect_after
                        .and_then(|after| Duration::try_from(after).ok());
                    let why = Explained {
                        what: format!("The cloud asks to come back: {}", away.detail),
                        remedy: "Nothing to do.".into(),
                        retry: true,
                    };
                    // Never earlier than told; a little jitter spreads those who were told the same.
                    let wait = match told {
                        Some(told) => told + TOLD_SPREAD.mul_f64(rng.f64()),
                        None => GO_AWAY_SPREAD.min(cap).mul_f64(rng.f64()),
                    };
                    // A cloud that keeps sending us away at once is met with growing patience.
                    let patience = if began.elapsed() < BRIEF {
                        backoff.next_wait()
                    } else {
                        Duration::ZERO
                    };
                    (why, wait.max(patience))
                }
                Ended::GoAway(away) => {
                    let why = Explained {
                        what: format!("The cloud ends the connection: {}", away.detail),
                        remedy: "Enrol the suite again, or ask the operator of the cloud.".into(),
                        retry: false,
                    };
                    (why, Duration::ZERO)
                }
                Ended::Failed(why, _) => (why, backoff.next_wait()),
            };
            let retry_in = why.retry.then_some(wait);
            let (what, remedy) = (why.what.clone(), why.remedy.clone());
            let _ = self
                .events
                .send(Event::Disconnected {
                    why: what,
                    remedy,
                    retry_in,
                })
                .await;
            if !why.retry {
                return Err(why);
            }
            if stop
                .run_until_cancelled(tokio::time::sleep(wait))
                .await
                .is_none()
            {
                return Ok(());
            }
        }
    }

    async fn stream(&mut self, channel: Channel) -> Ended {
        match self.try_stream(channel).await {
            Ok(ended) => ended,
            Err(status) => Ended::Failed(explain(&status, self.clock.now()), status.code()),
        }
    }

    /// Somebody else may have renewed the key meanwhile, or enrolled the suite anew: goes on with what is stored. False when that
    /// is what we have.
    fn take_over_identity(&mut self) -> bool {
        let Some((state, _)) = &self.kept else {
            return false;
        };
        match Identity::load(state) {
            Ok(stored) if stored.has_key_of(&self.identity) => false,
            Ok(stored) => {
                tracing::info!("the suite has another key by now, which is taken over");
                if stored.suite_id != self.identity.suite_id {
                    self.handle.view().lose_position();
                }
                self.identity = stored;
                true
            }
            Err(error) => {
                tracing::warn!(%error, "the identity could not be read again");
                false
            }
        }
    }

    /// Replaces the key when it is due; never ends without one to go on with.
    async fn renewed_key(
        kept: Option<(PathBuf, Duration)>,
        identity: Identity,
        clock: Clock,
    ) -> Identity {
        let Some((state, after)) = kept else {
            return std::future::pending().await;
        };
        tokio::time::sleep(clock.now().until(identity.renewal_due(after))).await;
        loop {
            match identity.renew_key(&state, &clock).await {
                Ok(renewed) => return renewed,
                Err(error) => tracing::warn!(%error, "the key is old and could not be renewed"),
            }
            tokio::time::sleep(RENEW_AGAIN).await;
        }
    }

    async fn try_stream(&mut self, channel: Channel) -> Result<Ended, Status> {
        let mut client = v1::presence_service_client::PresenceServiceClient::new(channel)
            .max_decoding_message_size(wire::MAX_MESSAGE_DOWN + (64 << 10));
        let (up, waiting) = mpsc::channel(UP_QUEUE);
        let opening = tokio_stream::iter(self.opening());
        let mut request = Request::new(opening.chain(ReceiverStream::new(waiting)));
        request
            .metadata_mut()
            .insert("authorization", self.identity.bearer(self.clock.now()));
        let mut renew_at = Instant::now() + self.renew_every;
        let answer = tokio::time::timeout(FIRST_ANSWER, client.watch(request))
            .await
            .map_err(|_| Status::deadline_exceeded("the cloud does not answer"))?;
        let mut down = answer?.into_inner();
        let mut patience = FIRST_ANSWER;
        let mut last_sign = Instant::now();
        let mut is_open = false;
        let renewed_key =
            Self::renewed_key(self.kept.clone(), self.identity.clone(), self.clock.clone());
        let mut renewed_key = Box::pin(renewed_key);
        loop {
            tokio::select! {
                message = tokio::time::timeout_at(last_sign + patience, down.message()) => {
                    let message = message.map_err(|_| Status::deadline_exceeded("no sign of life from the cloud"))??;
                    let Some(message) = message else {
                        return Err(Status::unavailable("the cloud has closed the stream"));
                    };
                    last_sign = Instant::now();
                    let Some(response) = message.response else { continue };
                    if let v1::watch_response::Response::Opened(opened) = &response {
                        is_open = true;
                        patience = opened.heartbeat_interval
                            .and_then(|interval| Duration::try_from(interval).ok())
                            .map_or(FIRST_ANSWER, |interval| interval.max(SHORTEST_INTERVAL).saturating_mul(MISSED_HEARTBEATS));
                    } else if !is_open {
                        return Err(Status::internal("the stream did not begin as the contract says"));
                    }
                    if let v1::watch_response::Response::GoAway(away) = response {
                        self.handle.view().apply(v1::watch_response::Response::GoAway(away.clone()), self.clock.now());
                        return Ok(Ended::GoAway(away));
                    }
                    let events = self.handle.view().apply(response, self.clock.now());
                    for event in events {
                        if self.events.send(event).await.is_err() {
                            return Ok(Ended::NobodyListens);
                        }
                    }
                    // Waiting for a slow reader of events is not the cloud's silence.
                    last_sign = Instant::now();
                }
                changed = self.list.changed() => {
                    if changed.is_err() {
                        return Ok(Ended::NobodyListens);
                    }
                    let list = self.list.borrow_and_update().clone();
                    let (new, gone) = self.handle.view().set_watched(&list);
                    // Room is made first: the list may be as long as the plan allows.
                    for message in removes(&gone).chain(adds(&new)) {
                        send(&up, message).await?;
                    }
                }
                renewed = &mut renewed_key, if is_open => {
                    tracing::info!("the key of the suite was renewed");
                    self.identity = renewed;
                    renewed_key.set(Self::renewed_key(self.kept.clone(), self.identity.clone(), self.clock.clone()));
                    renew_at = Instant::now();
                }
                () = tokio::time::sleep_until(renew_at) => {
                    let token = self.identity.credential(self.clock.now()).expose().to_owned();
                    send(&up, v1::watch_request::Request::RenewCredential(v1::RenewCredential { token })).await?;
                    renew_at = Instant::now() + self.renew_every;
                }
            }
        }
    }
}

impl Uplink {
    /// The first messages of a stream: where to resume and who is held, then everybody else.
    fn opening(&mut self) -> Vec<v1::WatchRequest> {
        let list = self.list.borrow_and_update().clone();
        let mut view = self.handle.view();
        view.set_watched(&list);
        let (resume, held, others) = view.opening();
        drop(view);
        let mut parts = held.chunks(NAMES_PER_MESSAGE).map(<[String]>::to_vec);
        let open = v1::Open {
            protocol_version: wire::PROTOCOL_VERSION,
            agent_version: AGENT_VERSION.into(),
            watch: parts.next().unwrap_or_default(),
            resume: resume.map(wire::position),
            continued_in_adds: u32::try_from(parts.len()).unwrap_or(u32::MAX),
        };
        let more = parts.map(|upns| v1::watch_request::Request::Add(v1::AddWatched { upns }));
        std::iter::once(v1::watch_request::Request::Open(open))
            .chain(more)
            .chain(adds(&others))
            .map(|request| v1::WatchRequest {
                request: Some(request),
            })
            .collect()
    }
}

fn adds(upns: &[String]) -> impl Iterator<Item = v1::watch_request::Request> {
    upns.chunks(NAMES_PER_MESSAGE).map(|part| {
        v1::watch_request::Request::Add(v1::AddWatched {
            upns: part.to_vec(),
        })
    })
}

fn removes(upns: &[String]) -> impl Iterator<Item = v1::watch_request::Request> {
    upns.chunks(NAMES_PER_MESSAGE).map(|part| {
        v1::watch_request::Request::Remove(v1::RemoveWatched {
            upns: part.to_vec(),
        })
    })
}

async fn send(
    up: &mpsc::Sender<v1::WatchRequest>,
    request: v1::watch_request::Request,
) -> Result<(), Status> {
    up.send(v1::WatchRequest {
        request: Some(request),
    })
    .await
    .map_err(|_| Status::unavailable("the cloud has closed the stream"))
}

#[cfg(test)]
mod tests;
