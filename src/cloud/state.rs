//! What is known of a tenant's people: readings in, sequenced changes out.
//!
//! Invariants: pure, no clock, no input or output. A sequence is given once and rises. A value is never older than what was
//! published before it. Presence is kept under the object id, never under a UPN.

use std::sync::Arc;
use std::time::Duration;

use crate::model::{
    ById, CoverageState, Epoch, IdSet, Position, Presence, Sequence, Timestamp, UserId,
};

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
    /// What it is. People who show the same share it.
    pub presence: Arc<Presence>,
    /// Its place in the tenant's run of changes.
    pub sequence: Sequence,
    /// When it was first read.
    pub changed_at: Timestamp,
}

/// The newest value of a person as it is kept, and when Microsoft last confirmed it.
#[derive(Debug)]
struct Held {
    presence: Arc<Presence>,
    sequence: Sequence,
    changed_at: Timestamp,
    confirmed_at: Timestamp,
}

impl Held {
    fn value(&self, user: UserId) -> Value {
        Value {
            user,
            presence: Arc::clone(&self.presence),
            sequence: self.sequence,
            changed_at: self.changed_at,
        }
    }
}

/// What is known of a person.
type Known = Option<Held>;

/// What is out of the ordinary about a person, and soon passes for most.
#[derive(Debug, Default, PartialEq, Eq)]
struct Odd {
    missing: u32,
    unknown: u32,
    refusals: u32,
    quarantined_until: Option<Timestamp>,
}

/// Coverage of a person whose account is known.
fn coverage_of(known: &Known, odd: Option<&Odd>) -> CoverageState {
    match known {
        _ if odd.is_some_and(|odd| odd.quarantined_until.is_some()) => CoverageState::Quarantined,
        Some(held) if held.presence.is_unknown() => CoverageState::PresenceUnknown,
        Some(_) => CoverageState::Monitored,
        None => CoverageState::Resolving,
    }
}

/// What a batch of readings changed.
#[derive(Debug, Default)]
pub struct Applied {
    /// New values, in sequence order.
    pub changes: Vec<Value>,
    /// People whose coverage changed.
    pub coverage: Vec<UserId>,
    /// People whose UPN should be looked up again.
    pub recheck: Vec<UserId>,
}

/// Everything known of a tenant's people.
#[derive(Debug)]
pub struct TenantState {
    position: Position,
    /// A million of them may be watched: what most do not have is in the maps below.
    people: ById<UserId, Known>,
    odd: ById<UserId, Odd>,
    /// Since when nobody watches them.
    unwatched: ById<UserId, Timestamp>,
    as_of: Option<Timestamp>,
    lagging: IdSet<UserId>,
    /// Each of the few things most people show, once.
    shown: IdSet<Arc<Presence>>,
}

impl TenantState {
    /// Knows nobody.
    pub fn new(epoch: Epoch) -> Self {
        Self {
            position: Position {
                epoch,
                sequence: Sequence::default(),
            },
            people: ById::default(),
            odd: ById::default(),
            unwatched: ById::default(),
            as_of: None,
            lagging: IdSet::default(),
            shown: IdSet::default(),
        }
    }

    /// Where the run of changes stands.
    pub fn position(&self) -> Position {
        self.position
    }

    /// A person is watched from now on. What was known while the person was last watched is still known.
    pub fn watch(&mut self, user: UserId) {
        self.unwatched.remove(&user);
        let known = self.people.entry(user).or_default();
        if known
            .as_ref()
            .is_some_and(|held| Some(held.confirmed_at) < self.as_of)
        {
            self.lagging.insert(user);
        }
    }

    /// Nobody watches this person any more.
    pub fn unwatch(&mut self, user: UserId, now: Timestamp) {
        if self.people.contains_key(&user) {
            self.unwatched.entry(user).or_insert(now);
        }
        self.lagging.remove(&user);
    }

    /// The account is gone: nothing known of it is true any more.
    pub fn remove(&mut self, user: UserId) {
        self.people.remove(&user);
        self.odd.remove(&user);
        self.unwatched.remove(&user);
        self.lagging.remove(&user);
    }

    /// Forgets people nobody has watched for `linger`.
    pub fn forget(&mut self, now: Timestamp, linger: Duration) {
        let long = |since: Timestamp| since.until(now) >= linger;
        let gone: Vec<UserId> = self
            .unwatched
            .iter()
            .filter(|(_, since)| long(**since))
            .map(|(user, _)| *user)
            .collect();
        for user in gone {
            self.remove(user);
        }
        if self.people.is_empty() && self.people.capacity() > 0 {
            (self.people, self.odd, self.unwatched) =
                (ById::default(), ById::default(), ById::default());
        }
    }

    fn is_unwatched(&self, user: UserId) -> bool {
        !self.unwatched.is_empty() && self.unwatched.contains_key(&user)
    }

    /// Watched people who can be read now, in no particular order; with `unread_only`, those never read yet.
    pub fn to_read(&self, now: Timestamp, unread_only: bool) -> Vec<UserId> {
        let due = |user: UserId, known: &Known| {
            let odd = self.odd.get(&user);
            let rests = odd
                .and_then(|odd| odd.quarantined_until)
                .is_some_and(|until| until > now);
            let unread = known.is_none() && odd.is_none_or(|odd| odd.missing == 0);
            !self.is_unwatched(user) && !rests && (!unread_only || unread)
        };
        self.people
            .iter()
            .filter(|(user, known)| due(**user, known))
            .map(|(user, _)| *user)
            .collect()
    }

    /// Whether anybody is watched.
    pub fn is_watched(&self) -> bool {
        self.people.len() > self.unwatched.len()
    }

    /// The newest value of a person and when Microsoft last confirmed it.
    pub fn value(&self, user: UserId) -> Option<(Value, Timestamp)> {
        let held = self.people.get(&user)?.as_ref()?;
        Some((held.value(user), held.confirmed_at))
    }

    /// A UPN has begun to name this person. Whoever held another person's value under that UPN may have seen later sequences
    /// than this one's: gives the value the next sequence. False when there is none.
    pub fn restamp(&mut self, user: UserId) -> bool {
        let Some(Some(held)) = self.people.get_mut(&user) else {
            return false;
        };
        self.position.sequence = self.position.sequence.next();
        held.sequence = self.position.sequence;
        true
    }

    /// Coverage of a person whose account is known.
    pub fn coverage(&self, user: UserId) -> CoverageState {
        let odd = self.odd.get(&user);
        self.people
            .get(&user)
            .map_or(CoverageState::Resolving, |known| coverage_of(known, odd))
    }

    /// What people show, kept once for all who show the same. Only what everybody may show: texts of people's own are theirs.
    fn share(shown: &mut IdSet<Arc<Presence>>, presence: Presence) -> Arc<Presence> {
        if !presence.is_common() {
            return Arc::new(presence);
        }
        if let Some(same) = shown.get(&presence) {
            return Arc::clone(same);
        }
        let presence = Arc::new(presence);
        shown.insert(Arc::clone(&presence));
        presence
    }

    /// Takes in an answer of Microsoft: who was asked for, what came, and when the question was put.
    ///
    /// A person missing from an answer is not confirmed by it, and after a few such answers becomes unknown; never offline.
    pub fn apply(
        &mut self,
        asked: &[UserId],
        mut answer: ById<UserId, Presence>,
        asked_at: Timestamp,
    ) -> Applied {
        let mut applied = Applied::default();
        for &user in asked {
            let Some(known) = self.people.get_mut(&user) else {
                continue;
            };
            let presence = answer.remove(&user);
            let odd = self.odd.get(&user);
            let before = coverage_of(known, odd);
            let is_missing = presence.is_none();
            let is_unknown = presence.as_ref().is_none_or(Presence::is_unknown);
            if is_unknown || odd.is_some() {
                let odd = self.odd.entry(user).or_default();
                odd.refusals = 0;
                odd.quarantined_until = None;
                odd.missing = if is_missing { odd.missing + 1 } else { 0 };
                if is_missing && odd.missing < MISSING_BEFORE_UNKNOWN {
                    if coverage_of(known, None) != before {
                        applied.coverage.push(user);
                    }
                    continue;
                }
                odd.unknown = if is_unknown {
                    odd.unknown.saturating_add(1)
                } else {
                    0
                };
                if odd.unknown == UNKNOWN_BEFORE_RECHECK {
                    applied.recheck.push(user);
                }
                if *odd == Odd::default() {
                    self.odd.remove(&user);
                }
            }
            let presence = presence.unwrap_or(Presence::UNKNOWN);
            match known {
                // Not the later of the two times: a clock that was put back would make the old pass for fresh.
                Some(held) if *held.presence == presence => held.confirmed_at = asked_at,
                _ => {
                    self.position.sequence = self.position.sequence.next();
                    let held = known.insert(Held {
                        presence: Self::share(&mut self.shown, presence),
                        sequence: self.position.sequence,
                        changed_at: asked_at,
                        confirmed_at: asked_at,
                    });
                    applied.changes.push(held.value(user));
                }
            }
            if Some(asked_at) >= self.as_of {
                self.lagging.remove(&user);
            }
            if coverage_of(known, None) != before {
                applied.coverage.push(user);
            }
        }
        applied
    }

    /// Microsoft refuses every request that names this person: leaves the person out for a while, longer each time.
    /// True when this is news.
    pub fn quarantine(&mut self, user: UserId, now: Timestamp) -> bool {
        if !self.people.contains_key(&user) {
            return false;
        }
        let odd = self.odd.entry(user).or_default();
        let news = odd.quarantined_until.is_none();
        odd.refusals = odd.refusals.saturating_add(1);
        odd.quarantined_until = Some(now.plus(quarantine_for(odd.refusals)));
        news
    }

    /// Ends a sweep over everybody that began at `started_at` and got at least one answer.
    pub fn finish_sweep(&mut self, started_at: Timestamp) {
        self.as_of = Some(started_at);
        let late = |known: &Known| {
            known
                .as_ref()
                .is_some_and(|held| held.confirmed_at < started_at)
        };
        self.lagging = self
            .people
            .iter()
            .filter(|(user, known)| late(known) && !self.is_unwatched(**user))
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
            .filter_map(|&user| Some((user, self.value(user)?.1)))
    }
}

#[cfg(test)]
mod tests;
