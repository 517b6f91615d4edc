//! Alerts: operators hear of trouble before the customer does.
//!
//! Facts are gathered every few seconds ([`Alerts::watch`]), judged ([`rules`]), and become alerts ([`machine`]) that are stored together
//! with the messages they take; each receiver has a task that delivers its messages ([`receivers`]), tries again what fails, and so loses
//! nothing when it or this service is away. Invariant: what was stored as open is told to be over, whatever happens in between; a
//! receiver that is added or renamed hears of what is open when the service starts.

pub mod machine;
pub mod receivers;
pub mod rules;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use uuid::Uuid;

use super::metrics::Metrics;
use super::operations::view::AlertLine;
use super::pulse::Beat;
use super::store::{Addressee, Message, Store, StoreError, TenantStatus};
use super::tenants::Tenants;
use super::tokens::chain;
use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::microsoft::Entra;
use crate::model::Timestamp;
use machine::{Machine, Open};
use receivers::{DeliveryError, Receiver};
use rules::{
    CredentialFacts, Facts, Key, Kind, Limits, Memory, Served, Severity, SuiteFacts, TenantFacts,
};

/// How often facts are judged.
const LOOK: Duration = Duration::from_secs(5);

/// How often a receiver is looked after when nothing new is known: what failed waits for its time.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A store that failed is left alone for so long.
const AFTER_FAILURE: Duration = Duration::from_secs(30);

/// Waits between tries grow to this.
const LONGEST_WAIT: Duration = Duration::from_mins(5);

/// A receiver that does not answer rests no longer than this.
const LONGEST_REST: Duration = Duration::from_mins(1);

/// A message is given up after this time.
const GIVE_UP: Duration = Duration::from_hours(24);

/// A receiver for whom messages were given up is in trouble until something reaches it, for so long.
const GIVEN_UP_COUNTS: Duration = Duration::from_hours(24 * 7);

/// A receiver is in trouble when something was tried so often in vain: some minutes.
const TRIES: u32 = 5;

/// Alerts that are over are forgotten after this time.
const KEPT: Duration = Duration::from_hours(24 * 180);

/// How often.
const TRIM: Duration = Duration::from_hours(24);

/// What is watched, and who is told.
pub struct Alerts {
    store: Store,
    clock: Clock,
    tenants: Arc<Tenants>,
    entra: Entra,
    limits: Limits,
    receivers: Vec<Receiver>,
    metrics: Arc<Metrics>,
    started_at: Timestamp,
    news: Notify,
    delivering: AtomicUsize,
}

impl Alerts {
    /// Nothing is watched before [`Alerts::watch`] runs, and nobody told before [`Alerts::deliver`].
    pub fn new(
        store: Store,
        clock: Clock,
        tenants: Arc<Tenants>,
        entra: Entra,
        limits: Limits,
        receivers: Vec<Receiver>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let started_at = clock.now();
        Arc::new(Self {
            store,
            clock,
            tenants,
            entra,
            limits,
            receivers,
            metrics,
            started_at,
            news: Notify::new(),
            delivering: AtomicUsize::new(0),
        })
    }

    /// How many receivers there are.
    pub fn receivers(&self) -> usize {
        self.receivers.len()
    }

    /// Who is told.
    pub fn addressees(&self) -> Vec<Addressee> {
        let addressees = self.receivers.iter().map(Receiver::addressee);
        addressees.cloned().collect()
    }

    /// Messages on their way just now.
    pub fn delivering(&self) -> usize {
        self.delivering.load(Ordering::Relaxed)
    }

    /// Tells every receiver that it would be told; by name, what came of it.
    pub async fn test(&self) -> Vec<(String, Result<(), DeliveryError>)> {
        let now = self.clock.now();
        let tests = self.receivers.iter().map(|receiver| async move {
            (receiver.addressee().name.clone(), receiver.test(now).await)
        });
        futures_util::future::join_all(tests).await
    }

    async fn facts(&self) -> Result<Facts, StoreError> {
        let now = self.clock.now();
        let mut refresh = self.store.refresh_facts(None).await?;
        let mut suites = HashMap::<_, Vec<_>>::new();
        for suite in self.store.suites(None).await? {
            if suite.active {
                suites.entry(suite.tenant).or_default().push(suite);
            }
        }
        let rows = self.store.tenants().await?;
        let served: HashMap<_, _> = self
            .tenants
            .all()
            .iter()
            .map(|tenant| (tenant.id(), tenant.figures()))
            .collect();
        let tenants = rows
            .into_iter()
            .filter(|row| row.status == TenantStatus::Active);
        let tenants = tenants.map(|row| {
            let figures = served.get(&row.id);
            let streams = figures.map(|f| f.of_streams.as_slice()).unwrap_or_default();
            let suites = suites.remove(&row.id).unwrap_or_default();
            TenantFacts {
                id: row.id,
                name: row.name,
                refresh: refresh.remove(&row.id),
                suites: suites
                    .into_iter()
                    .map(|suite| {
                        let own = streams.iter().filter(|s| s.suite == suite.id);
                        let stalled = own.clone().filter_map(|s| s.stalled).max();
                        SuiteFacts {
                            id: suite.id,
                            connected: own.count() > 0,
                            seen: suite.last_seen_at.unwrap_or(suite.created_at),
                            stalled: stalled.unwrap_or_default(),
                            name: suite.name,
                        }
                    })
                    .collect(),
                served: figures.map(|f| Served {
                    health: f.health.clone(),
                    refused: f.refused,
                    read_age: f.read_age,
                    cadence: f.cadence,
                    wanted: f.wanted,
                    throttled_since: f.throttled_since,
                    watched: f.coverage.watched,
                    covered: f.coverage.monitored + f.coverage.resolving,
                    resolving: f.coverage.resolving > 0,
                }),
            }
        });
        let tenants = tenants.collect();
        let credentials = self.entra.credentials();
        Ok(Facts {
            now,
            started_at: self.started_at,
            credentials: credentials
                .iter()
                .map(|one| CredentialFacts {
                    name: one.to_string(),
                    ending: one.ending(now),
                    ends: one.ends,
                    refused: one.refused,
                })
                .collect(),
            tenants,
            undelivered: self
                .store
                .undelivered(TRIES, self.clock.now().minus(GIVEN_UP_COUNTS))
                .await?,
        })
    }

    /// Watches, for ever.
    pub async fn watch(self: Arc<Self>, beat: Beat) {
        let addressees = self.addressees();
        let (mut machine, mut memory) = (None, Memory::default());
        let mut trimmed_at = self.clock.now();
        loop {
            beat.beat();
            if machine.is_none() {
                machine = self.resume(&addressees).await.map_or_else(
                    |e| {
                        failed(&e);
                        None
                    },
                    |(resumed, remembered)| {
                        memory = remembered;
                        Some(resumed)
                    },
                );
            }
            if let Some(known) = &mut machine
                && let Err(e) = self.look(known, &mut memory, &addressees).await
            {
                failed(&e);
                // What the store holds counts: perhaps it has taken what it said it had not.
                machine = None;
            }
            let now = self.clock.now();
            if trimmed_at.until(now) >= TRIM {
                trimmed_at = now;
                if let Err(e) = self.store.trim_alerts(now.minus(KEPT)).await {
                    failed(&e);
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What was open goes on. Of tenants whose coverage had dropped, the best is not known any more: all of it was.
    async fn resume(&self, addressees: &[Addressee]) -> Result<(Machine, Memory), StoreError> {
        let names: Vec<String> = addressees.iter().map(|to| to.name.clone()).collect();
        self.store.forget_receivers_but(&names).await?;
        let mut open = Vec::new();
        for line in self.store.alerts(None, true, u32::MAX).await? {
            let (id, kind) = (line.id, line.kind.clone());
            if let Some(alert) = open_alert(&line) {
                self.store
                    .tell_open_alert(&line, addressees, self.clock.now())
                    .await?;
                open.push(alert);
                continue;
            }
            // Of a version that was newer, or older: nothing here would ever tell that it is over.
            let kind = kind.escape_default().to_string();
            tracing::warn!(
                alert.kind = kind,
                "an alert of a kind that this version does not know is closed"
            );
            let now = self.clock.now();
            self.store.close_alert(id, addressees, now).await?;
        }
        let dropped = open
            .iter()
            .filter(|(key, _)| key.kind == Kind::CoverageDropped);
        let mut memory = Memory::default();
        for (key, _) in dropped {
            memory
                .baselines
                .extend(key.tenant.map(|tenant| (tenant, rules::Usual::of(1.0))));
        }
        Ok((Machine::with(open), memory))
    }

    async fn look(
        &self,
        machine: &mut Machine,
        memory: &mut Memory,
        addressees: &[Addressee],
    ) -> Result<(), StoreError> {
        let facts = self.facts().await?;
        let judged = rules::judge(&facts, &self.limits, memory);
        let steps = machine.step(&judged, facts.now, Uuid::new_v4);
        if steps.is_empty() {
            return Ok(());
        }
        self.store.put_alerts(&steps, addressees, facts.now).await?;
        for step in &steps {
            machine.done(step);
            tell_log(step);
        }
        self.news.notify_waiters();
        Ok(())
    }

    /// Delivers what is due for one receiver, for ever.
    pub async fn deliver(self: Arc<Self>, nth: usize) {
        let Some(receiver) = self.receivers.get(nth) else {
            return;
        };
        let mut rest = Rest::default();
        loop {
            // Asked for before looking, so that nothing new is missed in between.
            let news = self.news.notified();
            match self.deliver_due(receiver, &mut rest).await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(e) => {
                    failed(&e);
                    // What arrived and was not noted is sent again: not every moment.
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
            }
            let _ = tokio::time::timeout(LOOK_AGAIN, news).await;
        }
    }

    /// Whether something was tried.
    async fn deliver_due(&self, receiver: &Receiver, rest: &mut Rest) -> Result<bool, StoreError> {
        let (now, to) = (self.clock.now(), receiver.addressee());
        if !rest.is_over(now) {
            return Ok(false);
        }
        let due = self
            .store
            .due_messages(&to.name, now, receiver.at_once())
            .await?;
        if due.is_empty() {
            return Ok(false);
        }
        self.delivering.fetch_add(1, Ordering::Relaxed);
        let outcome = receiver.deliver(&due, now).await;
        rest.note(outcome.as_ref().err(), self.clock.now());
        let noted = self.note(receiver, &due, outcome).await;
        self.delivering.fetch_sub(1, Ordering::Relaxed);
        noted.map(|()| true)
    }

    async fn note(
        &self,
        receiver: &Receiver,
        messages: &[Message],
        outcome: Result<(), DeliveryError>,
    ) -> Result<(), StoreError> {
        let (now, name) = (self.clock.now(), &receiver.addressee().name);
        self.metrics.alert(receiver.channel(), outcome.is_ok());
        if let Err(e) = &outcome {
            tracing::warn!(receiver = %name, messages = messages.len(), error = %chain(e), "a message about alerts did not arrive");
        }
        for message in messages {
            match &outcome {
                Ok(()) => self.store.message_sent(message.id, now).await?,
                Err(e) => {
                    let again = again(message, now);
                    if again.is_none() {
                        tracing::error!(receiver = %name, alert.id = %message.alert.id, "a message about an alert was given up");
                    }
                    self.store
                        .message_failed(message.id, again, &chain(e))
                        .await?;
                }
            }
        }
        Ok(())
    }
}

/// A receiver that does not answer is left alone for a while: else each of many messages would wait for it in turn, and those made
/// last would hardly be tried when it is back. Then one message finds out.
#[derive(Debug, Default)]
struct Rest {
    until: Option<Timestamp>,
    failures: u32,
}

impl Rest {
    fn is_over(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now >= until)
    }

    /// What came of a try.
    fn note(&mut self, problem: Option<&DeliveryError>, now: Timestamp) {
        if problem.is_some_and(DeliveryError::is_silence) {
            let wait = Duration::from_secs(1).saturating_mul(1 << self.failures.min(10));
            self.failures = self.failures.saturating_add(1);
            self.until = Some(now.plus(wait.min(LONGEST_REST)));
        } else {
            *self = Self::default();
        }
    }
}

/// When a message is tried again, or that it is given up.
fn again(message: &Message, now: Timestamp) -> Option<Timestamp> {
    if message.made_at.until(now) >= GIVE_UP {
        return None;
    }
    let base = Duration::from_secs(2).saturating_mul(1 << message.tries.min(10));
    // Spread, so that receivers which failed together are not asked together.
    let mut jitter = Backoff::new(base / 2, LONGEST_WAIT / 2, message.id.as_u64_pair().1);
    let wait = (base / 2).min(LONGEST_WAIT / 2) + jitter.next_wait();
    Some(now.plus(wait.max(Duration::from_secs(1))))
}

fn open_alert(line: &AlertLine) -> Option<(Key, Open)> {
    let key = Key {
        kind: Kind::from_word(&line.kind)?,
        tenant: line.tenant,
        subject: line.subject.clone(),
    };
    let open = Open {
        id: line.id,
        severity: Severity::from_word(&line.severity)?,
        words: (line.title.clone(), line.cause.clone(), line.cure.clone()),
    };
    Some((key, open))
}

fn tell_log(step: &machine::Step) {
    use machine::Step::{Close, Escalate, Raise, Reword};
    let (id, key) = match step {
        Raise { id, key, .. } | Escalate { id, key, .. } | Close { id, key } => (id, key),
        Reword { .. } => return,
    };
    let tenant = key.tenant.map(|t| t.to_string());
    let kind = key.kind.as_str();
    match step {
        Close { .. } => {
            tracing::info!(alert.id = %id, alert.kind = kind, tenant.id = tenant, "an alert is over");
        }
        Raise { trouble, .. } => {
            tracing::warn!(alert.id = %id, alert.kind = kind, tenant.id = tenant, severity = trouble.severity.as_str(), "an alert is raised");
        }
        Escalate { trouble, .. } | Reword { trouble, .. } => {
            tracing::warn!(alert.id = %id, alert.kind = kind, tenant.id = tenant, severity = trouble.severity.as_str(), "an alert is escalated");
        }
    }
}

fn failed(e: &StoreError) {
    tracing::error!(error = %chain(e), "alerts cannot be kept");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::microsoft::TransportError;

    fn silence() -> DeliveryError {
        DeliveryError::Transport(TransportError::Connect("nobody there".into()))
    }

    #[test]
    fn a_receiver_that_does_not_answer_rests_ever_longer_and_one_that_does_never() {
        let (mut rest, mut now) = (Rest::default(), Timestamp::from_secs(1_000));
        let mut waits = Vec::new();
        for _ in 0..8 {
            assert!(rest.is_over(now));
            rest.note(Some(&silence()), now);
            let began = now;
            while !rest.is_over(now) {
                now = now.plus(Duration::from_secs(1));
            }
            waits.push(began.until(now).as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        // It answers, if only to refuse a message: the others are told.
        rest.note(
            Some(&DeliveryError::Status(http::StatusCode::BAD_REQUEST)),
            now,
        );
        assert!(rest.is_over(now));
        rest.note(Some(&silence()), now);
        assert!(!rest.is_over(now));
        rest.note(None, now);
        assert!(rest.is_over(now), "and begins anew");
        rest.note(Some(&silence()), now);
        assert!(rest.is_over(now.plus(Duration::from_secs(1))));
    }
}
