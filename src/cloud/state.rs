//! What is known of a tenant's people: readings in, sequenced changes out.
//!
//! Invariants: pure, no clock, no input or output. A sequence is given once and rises. A value is never older than what was
//! published before it. Presence is kept under the object id, never under a UPN.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::model::{CoverageState, Epoch, Position, Presence, Sequence, Timestamp, UserId};

/// Answers in a row without a person in them after which the person counts as unknown to Microsoft.
const MISSING_BEFORE_UNKNOWN: u32 = 3;

/// Answers in a row that do not know a person after which the UPN is looked up again. `microsoft-graph.md` §7.4.
const UNKNOWN_BEFORE_RECHECK: u32 = 3;

/// How long a refused id is left out after the `n`th refusal: a minute, doubling up to an hour.
fn quarantine_for(refusals: u32) -> Duration {
    Duration::from_mins(1 << refusals.saturating_sub(1).min(6)).min(Duration::from_hours(1))
}

/// A published value of a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// Whose it is.
    pub user: UserId,
    /// What it is.
    pub presence: Presence,
    /// Its place in the tenant's run of changes.
    pub sequence: Sequence,
    /// When it was first read.
    pub changed_at: Timestamp,
}

#[derive(Debug, Default)]
struct Person {
    value: Option<Arc<Value>>,
    confirmed_at: Option<Timestamp>,
    missing: u32,
    unknown: u32,
    refusals: u32,
    quarantined_until: Option<Timestamp>,
    /// `None` while watched.
    unwatched_since: Option<Timestamp>,
}

/// What a batch of readings changed.
#[derive(Debug, Default)]
pub struct Applied {
    /// New values, in sequence order.
    pub changes: Vec<Arc<Value>>,
    /// People whose coverage changed.
    pub coverage: Vec<UserId>,
    /// People whose UPN should be looked up again.
    pub recheck: Vec<UserId>,
}

/// Everything known of a tenant's people.
#[derive(Debug)]
pub struct TenantState {
    position: Position,
    people: HashMap<UserId, Person>,
    as_of: Option<Timestamp>,
    lagging: HashSet<UserId>,
}

impl TenantState {
    /// Knows nobody.
    pub fn new(epoch: Epoch) -> Self {
        Self {
            position: Position {
                epoch,
                sequence: Sequence::default(),
            },
            people: HashMap::new(),
            as_of: None,
            lagging: HashSet::new(),
        }
    }

    /// Where the run of changes stands.
    pub fn position(&self) -> Position {
        self.position
    }

    /// A person is watched from now on. What was known while the person was last watched is still known.
    pub fn watch(&mut self, user: UserId) {
        let person = self.people.entry(user).or_default();
        person.unwatched_since = None;
        if person.value.is_some() && person.confirmed_at < self.as_of {
            self.lagging.insert(user);
        }
    }

    /// Nobody watches this person any more.
    pub fn unwatch(&mut self, user: UserId, now: Timestamp) {
        if let Some(person) = self.people.get_mut(&user) {
            person.unwatched_since.get_or_insert(now);
        }
        self.lagging.remove(&user);
    }

    /// The account is gone: nothing known of it is true any more.
    pub fn remove(&mut self, user: UserId) {
        self.people.remove(&user);
        self.lagging.remove(&user);
    }

    /// Forgets people nobody has watched for `linger`.
    pub fn forget(&mut self, now: Timestamp, linger: Duration) {
        self.people.retain(|_, p| {
            p.unwatched_since
                .is_none_or(|since| since.until(now) < linger)
        });
    }

    /// Watched people who can be read now, in no particular order; with `unread_only`, those never read yet.
    pub fn to_read(&self, now: Timestamp, unread_only: bool) -> Vec<UserId> {
        self.people
            .iter()
            .filter(|(_, p)| p.unwatched_since.is_none())
            .filter(|(_, p)| p.quarantined_until.is_none_or(|until| until <= now))
            .filter(|(_, p)| !unread_only || (p.value.is_none() && p.missing == 0))
            .map(|(user, _)| *user)
            .collect()
    }

    /// Whether anybody is watched.
    pub fn is_watched(&self) -> bool {
        self.people.values().any(|p| p.unwatched_since.is_none())
    }

    /// The newest value of a person and when Microsoft last confirmed it.
    pub fn value(&self, user: UserId) -> Option<(&Arc<Value>, Timestamp)> {
        let person = self.people.get(&user)?;
        Some((person.value.as_ref()?, person.confirmed_at?))
    }

    /// A UPN has begun to name this person. Whoever held another person's value under that UPN may have seen later sequences
    /// than this one's: gives the value the next sequence. Returns it, and when Microsoft last confirmed it.
    pub fn restamp(&mut self, user: UserId) -> Option<(Arc<Value>, Timestamp)> {
        let person = self.people.get_mut(&user)?;
        let (value, confirmed_at) = (person.value.as_mut()?, person.confirmed_at?);
        self.position.sequence = self.position.sequence.next();
        *value = Arc::new(Value {
            sequence: self.position.sequence,
            ..Value::clone(value)
        });
        Some((Arc::clone(value), confirmed_at))
    }

    /// Coverage of a person whose account is known.
    pub fn coverage(&self, user: UserId) -> CoverageState {
        match self.people.get(&user) {
            Some(p) if p.quarantined_until.is_some() => CoverageState::Quarantined,
            Some(p) => match &p.value {
                Some(value) if value.presence.is_unknown() => CoverageState::PresenceUnknown,
                Some(_) => CoverageState::Monitored,
                None => CoverageState::Resolving,
            },
            None => CoverageState::Resolving,
        }
    }

    /// Takes in an answer of Microsoft: who was asked for, what came, and when the question was put.
    ///
    /// A person missing from an answer is not confirmed by it, and after a few such answers becomes unknown; never offline.
    pub fn apply(
        &mut self,
        asked: &[UserId],
        mut answer: HashMap<UserId, Presence>,
        asked_at: Timestamp,
    ) -> Applied {
        let mut applied = Applied::default();
        for &user in asked {
            let before = self.coverage(user);
            let Some(person) = self.people.get_mut(&user) else {
                continue;
            };
            person.refusals = 0;
            person.quarantined_until = None;
            let presence = if let Some(presence) = answer.remove(&user) {
                person.missing = 0;
                presence
            } else {
                person.missing += 1;
                if person.missing < MISSING_BEFORE_UNKNOWN {
                    continue;
                }
                Presence::UNKNOWN
            };
            person.unknown = if presence.is_unknown() {
                person.unknown.saturating_add(1)
            } else {
                0
            };
            if person.unknown == UNKNOWN_BEFORE_RECHECK {
                applied.recheck.push(user);
            }
            // Not the later of the two: a clock that was put back would make the old pass for fresh.
            person.confirmed_at = Some(asked_at);
            if person
                .value
                .as_ref()
                .is_none_or(|value| value.presence != presence)
            {
                self.position.sequence = self.position.sequence.next();
                let sequence = self.position.sequence;
                let value = Arc::new(Value {
                    user,
                    presence,
                    sequence,
                    changed_at: asked_at,
                });
                person.value = Some(Arc::clone(&value));
                applied.changes.push(value);
            }
            if person.confirmed_at >= self.as_of {
                self.lagging.remove(&user);
            }
            if self.coverage(user) != before {
                applied.coverage.push(user);
            }
        }
        applied
    }

    /// Microsoft refuses every request that names this person: leaves the person out for a while, longer each time.
    /// True when this is news.
    pub fn quarantine(&mut self, user: UserId, now: Timestamp) -> bool {
        let Some(person) = self.people.get_mut(&user) else {
            return false;
        };
        let news = person.quarantined_until.is_none();
        person.refusals = person.refusals.saturating_add(1);
        person.quarantined_until = Some(now.plus(quarantine_for(person.refusals)));
        news
    }

    /// Ends a sweep over everybody that began at `started_at` and got at least one answer.
    pub fn finish_sweep(&mut self, started_at: Timestamp) {
        self.as_of = Some(started_at);
        self.lagging = self
            .people
            .iter()
            .filter(|(_, p)| {
                p.unwatched_since.is_none() && p.value.is_some() && p.confirmed_at < self.as_of
            })
            .map(|(user, _)| *user)
            .collect();
    }

    /// Everybody watched and read is confirmed as of this time, except [`TenantState::lagging`].
    pub fn as_of(&self) -> Option<Timestamp> {
        self.as_of
    }

    /// Watched people whose value is older than [`TenantState::as_of`], with when it was last confirmed.
    pub fn lagging(&self) -> impl Iterator<Item = (UserId, Timestamp)> + '_ {
        self.lagging
            .iter()
            .filter_map(|&user| Some((user, self.people.get(&user)?.confirmed_at?)))
    }
}

#[cfg(test)]
mod tests;
