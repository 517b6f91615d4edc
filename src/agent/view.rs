//! What a suite knows: the cloud's messages in, people with their presence and its age out.
//!
//! Pure. Invariants: for one person the sequence never goes back within an epoch; what is stale is never shown as fresh; after a
//! lost position only what the new snapshot said remains.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use crate::model::{CoverageState, Epoch, Position, Presence, Sequence, Timestamp};
use crate::wire::v1;

/// Values older than this many cadences are stale.
const STALE_AFTER_CADENCES: u32 = 3;

/// But not before this time, so that a short pause is no alarm.
const STALE_AT_LEAST: Duration = Duration::from_secs(15);

/// A confirmation may seem to come from the future by so much, because clocks are adjusted.
const CLOCK_SLACK: Duration = Duration::from_secs(1);

/// People named in one [`Event::Freshness`].
const NAMED_TOGETHER: usize = 256;

/// A value of a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldValue {
    /// What it is.
    pub presence: Presence,
    /// Its sequence.
    pub sequence: Sequence,
    /// When it began.
    pub changed_at: Timestamp,
    /// When Microsoft had confirmed it, as told with the value.
    pub confirmed_at: Timestamp,
    /// Held from before a lost position, and not yet said again.
    leftover: bool,
    /// Came after this many heartbeats of its stream: only later ones speak of it.
    after_heartbeats: u64,
    /// Whether those who follow the events hold it for fresh.
    told_fresh: bool,
}

/// Coverage of a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldCoverage {
    /// The state; `None` for one this version does not know.
    pub state: Option<CoverageState>,
    /// In plain words.
    pub detail: String,
}

/// One watched person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// UPN as asked for.
    pub upn: String,
    /// The newest value.
    pub value: Option<HeldValue>,
    /// Coverage as reported; `None` is monitored.
    pub coverage: Option<HeldCoverage>,
}

/// The connection of the tenant to Microsoft, as told by the cloud.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantStatus {
    /// The state, in a word.
    pub state: &'static str,
    /// Whether all is well.
    pub connected: bool,
    /// The cause.
    pub cause: String,
    /// What to do.
    pub remedy: String,
    /// Microsoft's code.
    pub code: String,
    /// Since when.
    pub since: Option<Timestamp>,
    /// Time between two readings.
    pub cadence: Option<Duration>,
}

/// What happened, for those who follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A stream is open.
    Connected {
        /// Whether it resumes.
        resumed: bool,
    },
    /// The stream is gone; everything is stale.
    Disconnected {
        /// Why.
        why: String,
        /// What to do.
        remedy: String,
        /// When the next try comes; `None`: never.
        retry_in: Option<Duration>,
    },
    /// A value of a person, new or again.
    Presence {
        /// UPN as asked for.
        upn: String,
        /// The value.
        value: HeldValue,
        /// Whether it was sent as part of a snapshot.
        snapshot: bool,
        /// Whether it could be shown as it is now when it came. Before the first heartbeat nothing can; that is told afterwards.
        fresh: bool,
    },
    /// A person's value is no longer true, and there is none in its place.
    Gone {
        /// UPN as asked for.
        upn: String,
    },
    /// Coverage of a person.
    Coverage {
        /// UPN as asked for.
        upn: String,
        /// The coverage.
        coverage: HeldCoverage,
    },
    /// The opening snapshot is complete.
    SnapshotComplete,
    /// The tenant's connection.
    TenantStatus(TenantStatus),
    /// Values that are not fresh any more, or are so again. Everything is stale after [`Event::Disconnected`], without being named.
    Freshness {
        /// UPNs as asked for.
        upns: Vec<String>,
        /// Whether their values may be shown as they are now.
        fresh: bool,
    },
    /// How fresh everything is.
    Heartbeat {
        /// Everybody monitored is confirmed as of then.
        confirmed_as_of: Option<Timestamp>,
        /// But for so many people.
        exceptions: usize,
        /// How old that was when the cloud said so.
        age: Option<Duration>,
    },
}

/// How many people there are, by what is known of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Watched.
    pub watched: usize,
    /// With a value that is fresh.
    pub fresh: usize,
    /// With a value that is stale.
    pub stale: usize,
    /// Still being looked up or read.
    pub resolving: usize,
    /// Neither monitored nor being looked up.
    pub uncovered: usize,
}

#[derive(Debug, Clone)]
struct Freshness {
    /// The cloud's clock.
    as_of: Timestamp,
    sent_at: Timestamp,
    /// Our clock.
    received_at: Timestamp,
    exceptions: HashMap<String, Option<Timestamp>>,
}

/// Everything a suite knows.
#[derive(Debug, Default)]
pub struct View {
    people: BTreeMap<String, Person>,
    connected: bool,
    position: Option<Position>,
    tenant: Option<TenantStatus>,
    freshness: Option<Freshness>,
    /// Heartbeats so far, on all streams.
    heartbeats: u64,
    heartbeat_interval: Option<Duration>,
}

fn key(upn: &str) -> String {
    upn.trim().to_lowercase()
}

impl View {
    /// Watches these people: new ones begin with nothing, others are forgotten. Returns who is new and who is gone.
    pub fn set_watched(&mut self, upns: &[String]) -> (Vec<String>, Vec<String>) {
        let wanted: HashSet<String> = upns.iter().map(|upn| key(upn)).collect();
        let gone: Vec<String> = self
            .people
            .iter()
            .filter(|(key, _)| !wanted.contains(*key))
            .map(|(_, person)| person.upn.clone())
            .collect();
        self.people.retain(|key, _| wanted.contains(key));
        let mut new = Vec::new();
        for upn in upns {
            self.people.entry(key(upn)).or_insert_with(|| {
                new.push(upn.clone());
                Person {
                    upn: upn.clone(),
                    value: None,
                    coverage: None,
                }
            });
        }
        (new, gone)
    }

    /// All watched people, by name.
    pub fn people(&self) -> impl Iterator<Item = &Person> {
        self.people.values()
    }

    /// A watched person.
    pub fn person(&self, upn: &str) -> Option<&Person> {
        self.people.get(&key(upn))
    }

    /// Whether a stream is open.
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// The tenant's connection.
    pub fn tenant(&self) -> Option<&TenantStatus> {
        self.tenant.as_ref()
    }

    /// Heartbeats come at least this often.
    pub fn heartbeat_interval(&self) -> Option<Duration> {
        self.heartbeat_interval
    }

    /// Where to resume, who is held as of there, and who else is watched.
    pub fn opening(&self) -> (Option<Position>, Vec<String>, Vec<String>) {
        let Some(position) = self.position else {
            return (
                None,
                self.people.values().map(|p| p.upn.clone()).collect(),
                Vec::new(),
            );
        };
        let (held, others): (Vec<&Person>, Vec<&Person>) = self
            .people
            .values()
            .partition(|p| p.value.as_ref().is_some_and(|value| !value.leftover));
        let names = |people: Vec<&Person>| people.into_iter().map(|p| p.upn.clone()).collect();
        (Some(position), names(held), names(others))
    }

    /// What comes next is another suite's stream: there is nothing to resume.
    pub fn lose_position(&mut self) {
        self.position = None;
    }

    /// The stream is gone.
    pub fn disconnected(&mut self) {
        self.connected = false;
        self.freshness = None;
        for value in self.people.values_mut().filter_map(|p| p.value.as_mut()) {
            value.told_fresh = false;
        }
    }

    /// Whose values have become stale or fresh since that was told last.
    fn freshness_news(&mut self, now: Timestamp) -> Vec<Event> {
        let (mut fresh, mut stale) = (Vec::new(), Vec::new());
        for person in self.people.values() {
            let Some(value) = &person.value else { continue };
            match (value.told_fresh, self.is_fresh(person, now)) {
                (false, true) => fresh.push(person.upn.clone()),
                (true, false) => stale.push(person.upn.clone()),
                _ => {}
            }
        }
        let mut events = Vec::new();
        for (upns, fresh) in [(stale, false), (fresh, true)] {
            for upn in &upns {
                let value = self
                    .people
                    .get_mut(&key(upn))
                    .and_then(|p| p.value.as_mut());
                if let Some(value) = value {
                    value.told_fresh = fresh;
                }
            }
            let parts = upns.chunks(NAMED_TOGETHER);
            events.extend(parts.map(|upns| Event::Freshness {
                upns: upns.to_vec(),
                fresh,
            }));
        }
        events
    }

    /// Age of a person's value: since Microsoft last confirmed it. `None` while that cannot be told.
    pub fn age(&self, person: &Person, now: Timestamp) -> Option<Duration> {
        let value = person.value.as_ref()?;
        let freshness = self.freshness.as_ref()?;
        // A heartbeat speaks of what came before it. Somebody watched since then may have an old value.
        let confirmed = if value.after_heartbeats >= self.heartbeats {
            value.confirmed_at
        } else {
            let told = match freshness.exceptions.get(&key(&person.upn)) {
                Some(at) => at.unwrap_or_default(),
                None => freshness.as_of,
            };
            // A value may come between a sweep and the heartbeat that speaks of it; never from after that heartbeat.
            if value.confirmed_at <= freshness.sent_at {
                told.max(value.confirmed_at)
            } else {
                told
            }
        };
        // Confirmed in the cloud's future: its clock was put back, and nobody knows how old that is.
        if confirmed > freshness.sent_at.plus(CLOCK_SLACK) {
            return None;
        }
        Some(confirmed.until(freshness.sent_at) + freshness.received_at.until(now))
    }

    /// Whether a person's value may be shown as it is now.
    pub fn is_fresh(&self, person: &Person, now: Timestamp) -> bool {
        let covered = matches!(
            person.coverage.as_ref().map(|c| c.state),
            None | Some(Some(
                CoverageState::Monitored | CoverageState::PresenceUnknown
            ))
        );
        let leftover = person.value.as_ref().is_none_or(|value| value.leftover);
        let Some(cadence) = self.tenant.as_ref().and_then(|tenant| tenant.cadence) else {
            return false;
        };
        let limit = cadence
            .saturating_mul(STALE_AFTER_CADENCES)
            .max(STALE_AT_LEAST);
        self.connected
            && covered
            && !leftover
            && self.age(person, now).is_some_and(|age| age <= limit)
    }

    /// How many people there are, by what is known of them.
    pub fn counts(&self, now: Timestamp) -> Counts {
        let mut counts = Counts {
            watched: self.people.len(),
            ..Counts::default()
        };
        for person in self.people.values() {
            match person.coverage.as_ref().map(|c| c.state) {
                Some(Some(CoverageState::Resolving)) => counts.resolving += 1,
                None | Some(Some(CoverageState::Monitored)) => match &person.value {
                    None => counts.resolving += 1,
                    Some(_) if self.is_fresh(person, now) => counts.fresh += 1,
                    Some(_) => counts.stale += 1,
                },
                Some(_) => counts.uncovered += 1,
            }
        }
        counts
    }

    /// Takes in a message of the cloud.
    pub fn apply(&mut self, response: v1::watch_response::Response, now: Timestamp) -> Vec<Event> {
        use v1::watch_response::Response;
        match response {
            Response::Opened(opened) => self.opened(&opened),
            Response::Presences(presences) => self.presences(presences, now),
            Response::Coverage(coverage) => self.coverage(coverage),
            Response::TenantStatus(status) => {
                let status = tenant_status(status);
                self.tenant = Some(status.clone());
                let mut events = vec![Event::TenantStatus(status)];
                events.extend(self.freshness_news(now));
                events
            }
            Response::Heartbeat(heartbeat) => {
                let mut events = vec![self.heartbeat(heartbeat, now)];
                events.extend(self.freshness_news(now));
                events
            }
            Response::GoAway(go_away) => {
                self.advance(go_away.position);
                Vec::new()
            }
        }
    }

    fn opened(&mut self, opened: &v1::Opened) -> Vec<Event> {
        self.connected = true;
        self.freshness = None;
        self.heartbeat_interval = opened
            .heartbeat_interval
            .and_then(|interval| Duration::try_from(interval).ok());
        let epoch = opened.position.map(|position| Epoch(position.epoch));
        if !opened.resumed {
            self.position = epoch.map(|epoch| Position {
                epoch,
                sequence: Sequence(0),
            });
        }
        for person in self.people.values_mut() {
            person.coverage = None;
            if !opened.resumed
                && let Some(value) = &mut person.value
            {
                value.leftover = true;
            }
        }
        vec![Event::Connected {
            resumed: opened.resumed,
        }]
    }

    fn presences(&mut self, message: v1::Presences, now: Timestamp) -> Vec<Event> {
        let snapshot = message.kind == v1::PresencesKind::Snapshot as i32;
        let mut events = Vec::new();
        for told in message.presences {
            let Some(person) = self.people.get_mut(&key(&told.upn)) else {
                continue;
            };
            let sequence = Sequence(told.sequence);
            let older = person
                .value
                .as_ref()
                .is_some_and(|held| !held.leftover && held.sequence > sequence);
            if older {
                continue;
            }
            let time = |at: Option<prost_types::Timestamp>| {
                at.and_then(|at| Timestamp::try_from(at).ok())
                    .unwrap_or_default()
            };
            let value = HeldValue {
                presence: Presence::from(&told),
                sequence,
                changed_at: time(told.changed_at),
                confirmed_at: time(told.confirmed_at),
                leftover: false,
                after_heartbeats: self.heartbeats,
                told_fresh: false,
            };
            let upn = person.upn.clone();
            person.value = Some(value);
            // The event itself says whether it is fresh.
            let fresh = self
                .people
                .get(&key(&upn))
                .is_some_and(|person| self.is_fresh(person, now));
            let value = self.people.get_mut(&key(&upn)).and_then(|person| {
                let value = person.value.as_mut()?;
                value.told_fresh = fresh;
                Some(value.clone())
            });
            events.extend(value.map(|value| Event::Presence {
                upn,
                value,
                snapshot,
                fresh,
            }));
        }
        if message.snapshot_complete {
            for person in self.people.values_mut() {
                if person.value.as_ref().is_some_and(|value| value.leftover) {
                    person.value = None;
                    events.push(Event::Gone {
                        upn: person.upn.clone(),
                    });
                }
            }
            events.push(Event::SnapshotComplete);
        }
        self.advance(message.position);
        events
    }

    fn coverage(&mut self, message: v1::Coverage) -> Vec<Event> {
        let mut events = Vec::new();
        for told in message.people {
            let state = v1::CoverageState::try_from(told.state)
                .ok()
                .and_then(v1::CoverageState::to_model);
            let Some(person) = self.people.get_mut(&key(&told.upn)) else {
                continue;
            };
            // Another spelling of somebody who is watched: says nothing about the one we hold.
            if state == Some(CoverageState::Duplicate) && person.upn != told.upn {
                continue;
            }
            let ends_the_value = matches!(
                state,
                Some(
                    CoverageState::NotFound
                        | CoverageState::Guest
                        | CoverageState::NoPermission
                        | CoverageState::OverPlan
                        | CoverageState::Invalid
                )
            );
            if ends_the_value && person.value.take().is_some() {
                events.push(Event::Gone {
                    upn: person.upn.clone(),
                });
            }
            let coverage = HeldCoverage {
                state,
                detail: told.detail,
            };
            person.coverage = Some(coverage.clone());
            events.push(Event::Coverage {
                upn: person.upn.clone(),
                coverage,
            });
        }
        events
    }

    fn heartbeat(&mut self, heartbeat: v1::Heartbeat, now: Timestamp) -> Event {
        self.advance(heartbeat.position);
        self.heartbeats += 1;
        let time = |at: prost_types::Timestamp| Timestamp::try_from(at).ok();
        let sent_at = heartbeat.sent_at.and_then(time);
        let as_of = heartbeat.confirmed_as_of.and_then(time);
        let exceptions: HashMap<String, Option<Timestamp>> = heartbeat
            .exceptions
            .into_iter()
            .map(|e| (key(&e.upn), e.confirmed_at.and_then(time)))
            .collect();
        let event = Event::Heartbeat {
            confirmed_as_of: as_of,
            exceptions: exceptions.len(),
            age: as_of
                .zip(sent_at)
                .map(|(as_of, sent_at)| as_of.until(sent_at)),
        };
        self.freshness = as_of.zip(sent_at).map(|(as_of, sent_at)| Freshness {
            as_of,
            sent_at,
            received_at: now,
            exceptions,
        });
        event
    }

    fn advance(&mut self, position: Option<v1::Position>) {
        if let Some(position) = position {
            self.position = Some(position.into());
        }
    }
}

fn tenant_status(status: v1::TenantStatus) -> TenantStatus {
    let state = v1::TenantState::try_from(status.state).unwrap_or_default();
    TenantStatus {
        state: match state {
            v1::TenantState::Unspecified => "unknown",
            v1::TenantState::Pending => "pending",
            v1::TenantState::Connected => "connected",
            v1::TenantState::Degraded => "degraded",
            v1::TenantState::NeedsReauthorization => "needs re-authorization",
            v1::TenantState::NeedsAdministrator => "needs administrator",
            v1::TenantState::Suspended => "suspended",
            v1::TenantState::Gone => "gone",
        },
        connected: state == v1::TenantState::Connected,
        cause: status.cause,
        remedy: status.remedy,
        code: status.code,
        since: status.since.and_then(|at| Timestamp::try_from(at).ok()),
        cadence: status
            .cadence
            .and_then(|cadence| Duration::try_from(cadence).ok()),
    }
}

#[cfg(test)]
mod tests;
