//! One tenant's people and the streams that watch them.
//!
//! Invariants: pure but for the mailboxes it fills; called under one lock per tenant, which is never held across an await, and
//! nothing here waits. Knows one tenant only, so nothing of another can come out.

pub mod mailbox;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use mailbox::{Batch, Delivery, End, Freshness, Mailbox, Tally};
use smallvec::SmallVec;

use super::directory::{Directory, LookupPace, Moved, NameId, StreamId};
use super::state::{Applied, TenantState, Value};
use crate::model::{
    ById, CoverageState, Epoch, Health, IdSet, Position, Presence, SuiteId, Timestamp, Upn, UserId,
};

/// More exceptions than this are told as one older time for everybody.
const MAX_EXCEPTIONS: usize = 256;

/// So much of a text that is no UPN is repeated in its coverage.
const MAX_ECHO_BYTES: usize = 320;

/// How long the value of somebody nobody watches is kept, so that a suite that comes back finds its place.
const LINGER: Duration = Duration::from_mins(15);

/// What a lookup brought to light about UPNs.
#[derive(Debug, Default)]
pub struct LookupOutcome {
    /// UPNs and the accounts they name.
    pub found: Vec<(Upn, UserId)>,
    /// UPNs of nobody.
    pub not_found: Vec<Upn>,
    /// UPNs that may not be looked up.
    pub no_permission: Vec<Upn>,
    /// UPNs for which nothing is known now, and when to try again.
    pub failed: Vec<(Upn, Timestamp)>,
}

/// The answer to opening a stream.
pub struct Opened {
    /// The stream.
    pub id: StreamId,
    /// What waits for it.
    pub mailbox: Arc<Mailbox>,
    /// Where the tenant's run of changes stands.
    pub position: Position,
    /// Whether the stream resumes.
    pub resumed: bool,
}

/// A stream that has a place, but has not begun: nobody is watched yet.
pub struct Reserved {
    /// The stream.
    pub id: StreamId,
    /// What waits for it.
    pub mailbox: Arc<Mailbox>,
}

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To last.
    Lasting,
    /// One answer. Does not count as a stream of its suite.
    OneAnswer,
}

/// One stream, for people.
#[derive(Debug, Clone)]
pub struct StreamFigures {
    /// Whose it is.
    pub suite: SuiteId,
    /// Since when it is open.
    pub since: Timestamp,
    /// What the suite's agent says it is; already free of control characters.
    pub agent: Arc<str>,
    /// Whom it watches.
    pub watched: usize,
    /// People asked for beyond the plan.
    pub over_plan: usize,
    /// People about whom something waits for the suite to take it.
    pub waiting: usize,
    /// How long the suite has taken nothing although something waits.
    pub stalled: Option<Duration>,
}

struct Stream {
    suite: SuiteId,
    purpose: Purpose,
    /// Since when it is open, and what the agent says it is; from the opening on.
    begun: Option<(Timestamp, Arc<str>)>,
    max_watched: usize,
    mailbox: Arc<Mailbox>,
    watched: IdSet<NameId>,
    /// The spelling asked for, where it is not the usual one.
    spelled: ById<NameId, Arc<str>>,
    over_plan: OverPlan,
    /// Named when the stream opened, and without a value or a final coverage so far. `None` when the snapshot is complete.
    awaited: Option<IdSet<NameId>>,
    /// Names of the opening are still being taken in: the snapshot cannot be complete yet.
    opening: bool,
}

/// Asked for beyond the plan, in order.
#[derive(Default)]
struct OverPlan {
    order: BTreeMap<u64, (Upn, Arc<str>)>,
    places: HashMap<Upn, u64>,
    next: u64,
}

impl OverPlan {
    fn push(&mut self, upn: Upn, asked: Arc<str>) {
        if !self.places.contains_key(&upn) {
            self.places.insert(upn.clone(), self.next);
            self.order.insert(self.next, (upn, asked));
            self.next += 1;
        }
    }

    fn remove(&mut self, upn: &Upn) {
        if let Some(place) = self.places.remove(upn) {
            self.order.remove(&place);
        }
    }

    fn len(&self) -> usize {
        self.order.len()
    }
}

/// Tells which account a UPN named when it was last looked up, and when that was.
pub type Known<'a> = &'a dyn Fn(&Upn) -> Option<(UserId, Timestamp)>;

/// How many watched people there are, by coverage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CoverageCount {
    /// Distinct UPNs watched.
    pub watched: usize,
    /// Of these, monitored.
    pub monitored: usize,
    /// Of these, still being looked up or read.
    pub resolving: usize,
    /// Those who are not monitored, by the reason; with those still being looked up.
    pub uncovered: BTreeMap<CoverageState, usize>,
}

/// What a suite watches on all its streams together: a plan counts people, not streams.
#[derive(Default)]
struct Watching {
    streams: Vec<StreamId>,
    people: usize,
}

/// Streams, and the changes of an answer that concern just these.
type Group<'a> = (&'a [StreamId], Vec<(NameId, Delivery)>);

/// One tenant's people and the streams that watch them.
pub struct TenantHub {
    state: TenantState,
    directory: Directory,
    streams: ById<StreamId, Stream>,
    suites: HashMap<SuiteId, Watching>,
    next_stream: u64,
    status: (Health, Option<Duration>),
    /// Of all mailboxes, since it was last taken.
    tally: Tally,
}

impl TenantHub {
    /// Nobody watches yet.
    pub fn new(epoch: Epoch, pace: LookupPace, health: Health) -> Self {
        Self {
            state: TenantState::new(epoch),
            directory: Directory::new(pace),
            streams: ById::default(),
            suites: HashMap::new(),
            next_stream: 1,
            status: (health, None),
            tally: Tally::default(),
        }
    }

    /// Takes a place for a stream of a suite that may watch `max_watched` people on all its streams together. `None` when the suite
    /// has as many lasting streams as `max_streams` already.
    pub fn reserve(
        &mut self,
        suite: SuiteId,
        max_watched: usize,
        purpose: Purpose,
        max_streams: usize,
    ) -> Option<Reserved> {
        if purpose == Purpose::Lasting && self.streams_of(suite) >= max_streams {
            return None;
        }
        let id = StreamId(self.next_stream);
        self.next_stream += 1;
        let mailbox = Arc::new(Mailbox::new(self.state.position()));
        self.streams.insert(
            id,
            Stream {
                suite,
                purpose,
                begun: None,
                max_watched,
                mailbox: Arc::clone(&mailbox),
                watched: IdSet::default(),
                spelled: ById::default(),
                over_plan: OverPlan::default(),
                awaited: None,
                opening: true,
            },
        );
        self.suites.entry(suite).or_default().streams.push(id);
        Some(Reserved { id, mailbox })
    }

    /// Notes what a stream's agent says it is.
    pub fn introduce(&mut self, id: StreamId, agent: &str, now: Timestamp) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.begun = Some((now, agent.escape_default().to_string().into()));
        }
    }

    /// The lasting streams that have begun.
    pub fn stream_figures(&self) -> Vec<StreamFigures> {
        let of_stream = |stream: &Stream| {
            let (since, agent) = stream.begun.clone()?;
            Some(StreamFigures {
                suite: stream.suite,
                since,
                agent,
                watched: stream.watched.len(),
                over_plan: stream.over_plan.len(),
                waiting: stream.mailbox.len(),
                stalled: stream.mailbox.stalled_for(),
            })
        };
        let lasting = |stream: &&Stream| stream.purpose == Purpose::Lasting;
        self.streams
            .values()
            .filter(lasting)
            .filter_map(of_stream)
            .collect()
    }

    /// Begins a stream that has a place. `resume` holds for `names`, of whom the suite holds values as of that position.
    pub fn begin(
        &mut self,
        reserved: Reserved,
        names: &[String],
        resume: Option<Position>,
        known: Known<'_>,
        now: Timestamp,
    ) -> Opened {
        let Reserved { id, mailbox } = reserved;
        let latest = self.state.position();
        let resumed =
            resume.filter(|at| at.epoch == latest.epoch && at.sequence <= latest.sequence);
        let nothing_yet = Position {
            sequence: crate::model::Sequence(0),
            ..latest
        };
        mailbox.begin(latest, resumed.unwrap_or(nothing_yet));
        mailbox.put_status(self.status.0.clone(), self.status.1);
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.awaited = resumed.is_none().then(IdSet::default);
        }
        self.watch(id, names, resumed, known, now);
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.opening = false;
            stream.settle_snapshot();
        }
        self.tally += mailbox.advance(latest);
        self.tell_freshness(Some(id));
        Opened {
            id,
            mailbox,
            position: latest,
            resumed: resumed.is_some(),
        }
    }

    /// Reserves a place and begins at once.
    pub fn open(
        &mut self,
        suite: SuiteId,
        max_watched: usize,
        names: &[String],
        resume: Option<Position>,
        known: Known<'_>,
        now: Timestamp,
    ) -> Opened {
        let reserved = self
            .reserve(suite, max_watched, Purpose::Lasting, usize::MAX)
            .expect("there is always room below the highest number");
        self.begin(reserved, names, resume, known, now)
    }

    /// Watches more people.
    pub fn add(&mut self, id: StreamId, names: &[String], known: Known<'_>, now: Timestamp) {
        self.watch(id, names, None, known, now);
        self.tell_freshness(Some(id));
    }

    /// Stops watching people.
    pub fn remove(&mut self, id: StreamId, names: &[String], known: Known<'_>, now: Timestamp) {
        for name in names {
            if let Ok(upn) = Upn::parse(name) {
                self.unwatch(id, &upn, now);
            }
        }
        self.settle_snapshot(id);
        if let Some(stream) = self.streams.get(&id) {
            self.fill_up(stream.suite, known, now);
        }
        self.tell_freshness(Some(id));
    }

    /// Makes the watch list exactly this one.
    pub fn replace(&mut self, id: StreamId, names: &[String], known: Known<'_>, now: Timestamp) {
        let wanted: HashSet<Upn> = names
            .iter()
            .filter_map(|name| Upn::parse(name).ok())
            .collect();
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let suite = stream.suite;
        stream.over_plan = OverPlan::default();
        let watched = stream.watched.iter();
        let gone: Vec<Upn> = watched
            .filter_map(|name| self.directory.upn(*name))
            .filter(|upn| !wanted.contains(*upn))
            .cloned()
            .collect();
        for upn in gone {
            self.unwatch(id, &upn, now);
        }
        self.watch(id, names, None, known, now);
        self.settle_snapshot(id);
        // Full as before, perhaps, but of others: somebody waits on another stream for whom there is a place now.
        self.let_in(suite, known, now);
        self.tell_freshness(Some(id));
    }

    /// The stream has ended.
    pub fn close(&mut self, id: StreamId, known: Known<'_>, now: Timestamp) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        let suite = stream.suite;
        let watched: Vec<NameId> = stream.watched.iter().copied().collect();
        for name in watched {
            self.unwatch_name(id, name, now);
        }
        if let Some(stream) = self.streams.remove(&id) {
            stream.mailbox.close();
            self.tally += stream.mailbox.take_tally();
        }
        if let Some(watching) = self.suites.get_mut(&suite) {
            watching.streams.retain(|other| *other != id);
            if watching.streams.is_empty() {
                self.suites.remove(&suite);
            }
        }
        self.fill_up(suite, known, now);
        self.state.forget(now, LINGER);
    }

    fn watch(
        &mut self,
        id: StreamId,
        names: &[String],
        resumed: Option<Position>,
        known: Known<'_>,
        now: Timestamp,
    ) {
        for text in names {
            let Some(stream) = self.streams.get_mut(&id) else {
                return;
            };
            let Ok(upn) = Upn::parse(text) else {
                stream.say_about_text(text, CoverageState::Invalid, now);
                continue;
            };
            let known_name = self.directory.name(&upn);
            if let Some(name) = known_name.filter(|name| stream.watched.contains(name)) {
                let asked = stream.spelled.get(&name);
                if asked.map_or(upn.as_str(), |asked| asked) != text {
                    stream.say_about_text(text, CoverageState::Duplicate, now);
                }
                continue;
            }
            let (suite, max_watched) = (stream.suite, stream.max_watched);
            let on_other_stream = known_name.is_some_and(|name| self.suite_watches(suite, name));
            let people = self.suites.get(&suite).map_or(0, |suite| suite.people);
            let Some(stream) = self.streams.get_mut(&id) else {
                return;
            };
            if people >= max_watched && !on_other_stream {
                let asked: Arc<str> = text.as_str().into();
                stream
                    .mailbox
                    .put_coverage(&upn, Arc::clone(&asked), CoverageState::OverPlan, now);
                if stream.over_plan.len() < max_watched {
                    stream.over_plan.push(upn, asked);
                }
                continue;
            }
            stream.over_plan.remove(&upn);
            let (name, user) = self.directory.watch(&upn, id, known(&upn), now);
            stream.watched.insert(name);
            if text != upn.as_str() {
                stream.spelled.insert(name, text.as_str().into());
            }
            if let Some(awaited) = &mut stream.awaited {
                awaited.insert(name);
            }
            if !on_other_stream && let Some(suite) = self.suites.get_mut(&suite) {
                suite.people += 1;
            }
            if let Some(user) = user {
                self.state.watch(user);
            }
            self.welcome(id, name, &upn, resumed, now);
        }
    }

    /// Whether a suite watches somebody on any of its streams.
    fn suite_watches(&self, suite: SuiteId, name: NameId) -> bool {
        let streams = self.suites.get(&suite).map_or(&[][..], |s| &s.streams);
        let mut streams = streams.iter().filter_map(|id| self.streams.get(id));
        streams.any(|stream| stream.watched.contains(&name))
    }

    /// Tells a stream what is known of a person it has begun to watch.
    fn welcome(
        &mut self,
        id: StreamId,
        name: NameId,
        upn: &Upn,
        resumed: Option<Position>,
        now: Timestamp,
    ) {
        let coverage = self.note_coverage(upn, now);
        let user = self.directory.user(upn);
        let value = user.and_then(|user| self.state.value(user));
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if let Some((value, confirmed_at)) = value
            && resumed.is_none_or(|at| value.sequence > at.sequence)
        {
            stream.say_value(name, upn, value, confirmed_at, resumed.is_none());
        }
        if let Some((state, since, _)) = coverage
            && state != CoverageState::Monitored
        {
            stream.say_coverage(name, upn, state, since);
        }
    }

    fn unwatch(&mut self, id: StreamId, upn: &Upn, now: Timestamp) {
        let name = self.directory.name(upn);
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if let Some(name) = name.filter(|name| stream.watched.contains(name)) {
            self.unwatch_name(id, name, now);
        } else {
            stream.mailbox.drop_person(upn, None);
            stream.over_plan.remove(upn);
        }
    }

    fn unwatch_name(&mut self, id: StreamId, name: NameId, now: Timestamp) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if let Some(upn) = self.directory.upn(name) {
            stream.mailbox.drop_person(upn, Some(name));
        }
        stream.watched.remove(&name);
        stream.spelled.remove(&name);
        if let Some(awaited) = &mut stream.awaited {
            awaited.remove(&name);
        }
        let suite = stream.suite;
        if !self.suite_watches(suite, name)
            && let Some(suite) = self.suites.get_mut(&suite)
        {
            suite.people -= 1;
        }
        if let Some(user) = self.directory.unwatch(name, id) {
            self.state.unwatch(user, now);
        }
    }

    /// There may be room on a suite's plan again: then whoever waits for it on any of its streams is watched.
    fn fill_up(&mut self, suite: SuiteId, known: Known<'_>, now: Timestamp) {
        let people = self.suites.get(&suite).map_or(0, |suite| suite.people);
        let mut streams = self.streams.values().filter(|s| s.suite == suite);
        if streams.any(|stream| stream.over_plan.len() > 0 && people < stream.max_watched) {
            self.let_in(suite, known, now);
        }
    }

    /// Whoever waits for a place on a suite's plan is watched as far as there is room, and if the suite watches that person on another
    /// stream, which takes none.
    fn let_in(&mut self, suite: SuiteId, known: Known<'_>, now: Timestamp) {
        let mut waiting: Vec<StreamId> = self
            .streams
            .iter()
            .filter(|(_, stream)| stream.suite == suite && stream.over_plan.len() > 0)
            .map(|(id, _)| *id)
            .collect();
        waiting.sort_unstable();
        let people = |hub: &Self| hub.suites.get(&suite).map_or(0, |suite| suite.people);
        for id in waiting {
            let Some(stream) = self.streams.get(&id) else {
                continue;
            };
            let mut room = stream.max_watched.saturating_sub(people(self));
            let mut names = Vec::new();
            for (upn, asked) in stream.over_plan.order.values() {
                let name = self.directory.name(upn);
                if name.is_some_and(|name| self.suite_watches(suite, name)) {
                    names.push(asked.to_string());
                } else if room > 0 {
                    room -= 1;
                    names.push(asked.to_string());
                }
            }
            if !names.is_empty() {
                self.watch(id, &names, None, known, now);
                self.tell_freshness(Some(id));
            }
        }
    }

    fn settle_snapshot(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.settle_snapshot();
        }
    }

    /// At most `max` UPNs to look up now.
    pub fn take_lookups(&mut self, now: Timestamp, max: usize) -> Vec<Upn> {
        self.directory.take_due(now, max)
    }

    /// When the next lookup is due.
    pub fn next_lookup(&self) -> Option<Timestamp> {
        self.directory.next_due()
    }

    /// Takes in what a lookup brought to light.
    pub fn apply_lookup(&mut self, outcome: LookupOutcome, now: Timestamp) {
        let mut met_again = false;
        for (upn, user) in outcome.found {
            let is_watched = self.directory.is_watched(&upn);
            let moved = self.directory.found(&upn, user, now);
            if let Some(after) = moved.after.or((!is_watched).then_some(user)) {
                // Also when nobody watches the UPN just now: whoever comes back may hold the value of the account it named before.
                met_again |= self.state.restamp(after);
            }
            self.apply_move(&upn, moved, now);
        }
        for upn in outcome.not_found {
            let moved = self.directory.not_found(&upn, now);
            if let Some(gone) = moved.before {
                self.state.remove(gone);
            }
            self.apply_move(&upn, moved, now);
        }
        for upn in outcome.no_permission {
            let retry_at = now.plus(Duration::from_hours(1));
            let moved = self.directory.no_permission(&upn, retry_at);
            self.apply_move(&upn, moved, now);
        }
        for (upn, retry_at) in outcome.failed {
            self.directory.failed(&upn, retry_at);
        }
        if met_again {
            self.advance();
            // A value kept from earlier is older than the last sweep: said behind it, before it can pass for confirmed.
            self.tell_freshness(None);
        }
    }

    fn apply_move(&mut self, upn: &Upn, moved: Moved, now: Timestamp) {
        if let Some(before) = moved.before {
            self.state.unwatch(before, now);
        }
        if let Some(after) = moved.after {
            self.state.watch(after);
            let value = self.state.value(after);
            let Some(name) = self.directory.name(upn) else {
                return;
            };
            for stream in self.directory.watchers(name) {
                let Some(stream) = self.streams.get_mut(stream) else {
                    continue;
                };
                match &value {
                    Some((value, at)) => {
                        stream.say_value(name, upn, value.clone(), *at, false);
                    }
                    // What is held under this name is another person's. Nothing takes its place yet.
                    None if moved.renamed => stream.say_forget(name, upn, now),
                    None => {}
                }
            }
        }
        if moved.changed {
            self.tell_coverage(upn, moved.renamed, now);
        }
    }

    /// Every stream has in its mailbox what concerns it.
    fn advance(&mut self) {
        let latest = self.state.position();
        for stream in self.streams.values() {
            self.tally += stream.mailbox.advance(latest);
        }
    }

    /// What became of values that waited in mailboxes, since it was last asked. Known after the next reading or the end of a stream.
    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// Watched accounts that can be read now; with `unread_only`, those never read yet.
    pub fn to_read(&self, now: Timestamp, unread_only: bool) -> Vec<UserId> {
        self.state.to_read(now, unread_only)
    }

    /// Whether any account is to be read.
    pub fn is_watched(&self) -> bool {
        self.state.is_watched()
    }

    /// Takes in an answer of Microsoft and puts what changed into the mailboxes of those who watch it.
    /// Returns how many values changed.
    pub fn apply_readings(
        &mut self,
        asked: &[UserId],
        answer: ById<UserId, Presence>,
        asked_at: Timestamp,
        now: Timestamp,
    ) -> usize {
        let Applied {
            changes,
            coverage,
            recheck,
        } = self.state.apply(asked, answer, asked_at);
        let Self {
            directory, streams, ..
        } = self;
        // What concerns the same streams is made once for all of them.
        let mut groups: Vec<Group<'_>> = Vec::new();
        let mut places: ById<&[StreamId], usize> = ById::default();
        let mut place = 0;
        for value in &changes {
            for name in directory.names(value.user) {
                let watchers = directory.watchers(name);
                let Some(upn) = directory.upn(name).filter(|_| !watchers.is_empty()) else {
                    continue;
                };
                // Often they are those of the one before.
                if groups.get(place).is_none_or(|(same, _)| *same != watchers) {
                    place = *places.entry(watchers).or_insert_with(|| {
                        groups.push((watchers, Vec::new()));
                        groups.len() - 1
                    });
                }
                let delivery = Delivery {
                    asked: upn.to_shared(),
                    value: value.clone(),
                    confirmed_at: asked_at,
                };
                groups[place].1.push((name, delivery));
            }
        }
        // All that one answer has for a stream goes in at once, so that it goes out in one message.
        let mut news: ById<StreamId, SmallVec<[Arc<Batch>; 1]>> = ById::default();
        for (watchers, values) in groups {
            let batches = Batch::of(values);
            for stream in watchers {
                news.entry(*stream)
                    .or_default()
                    .extend(batches.iter().cloned());
            }
        }
        for (id, batches) in news {
            if let Some(stream) = streams.get_mut(&id) {
                stream.say_batches(&batches);
            }
        }
        self.tell_coverage_of(&coverage, now);
        for user in recheck {
            self.directory.recheck(user, now);
        }
        self.advance();
        changes.len()
    }

    /// Leaves out accounts that Microsoft refuses to be asked about.
    pub fn quarantine(&mut self, users: &[UserId], now: Timestamp) {
        let news: Vec<UserId> = users
            .iter()
            .copied()
            .filter(|user| self.state.quarantine(*user, now))
            .collect();
        self.tell_coverage_of(&news, now);
        for user in news {
            self.directory.recheck(user, now);
        }
    }

    /// Ends a sweep that began at `started_at` and got at least one answer.
    pub fn finish_sweep(&mut self, started_at: Timestamp, now: Timestamp) {
        self.state.finish_sweep(started_at);
        self.state.forget(now, LINGER);
        self.tell_freshness(None);
    }

    /// Tells all streams, or one, how fresh what they watch is.
    fn tell_freshness(&mut self, only: Option<StreamId>) {
        let as_of = self.state.as_of();
        let mut lagging: ById<StreamId, Vec<(Arc<str>, Timestamp)>> = ById::default();
        for (user, confirmed_at) in self.state.lagging() {
            for name in self.directory.names(user) {
                let Some(upn) = self.directory.upn(name) else {
                    continue;
                };
                for id in self.directory.watchers(name) {
                    if only.is_none_or(|only| only == *id)
                        && let Some(stream) = self.streams.get(id)
                    {
                        let exception = (stream.asked(name, upn), confirmed_at);
                        lagging.entry(*id).or_default().push(exception);
                    }
                }
            }
        }
        for (id, stream) in &self.streams {
            if only.is_none_or(|only| only == *id) {
                let exceptions = lagging.remove(id).unwrap_or_default();
                stream.mailbox.put_freshness(freshness(as_of, exceptions));
            }
        }
    }

    fn coverage(&self, upn: &Upn) -> Option<CoverageState> {
        self.directory
            .coverage(upn, |user| self.state.coverage(user))
    }

    fn note_coverage(
        &mut self,
        upn: &Upn,
        now: Timestamp,
    ) -> Option<(CoverageState, Timestamp, bool)> {
        let Self {
            directory, state, ..
        } = self;
        directory.note_coverage(upn, |user| state.coverage(user), now)
    }

    fn tell_coverage_of(&mut self, users: &[UserId], now: Timestamp) {
        let upns: Vec<Upn> = users
            .iter()
            .flat_map(|user| self.directory.names(*user))
            .filter_map(|name| self.directory.upn(name).cloned())
            .collect();
        for upn in upns {
            self.tell_coverage(&upn, false, now);
        }
    }

    /// Tells who watches a UPN what coverage it has, if that is news or told `anyway`.
    fn tell_coverage(&mut self, upn: &Upn, anyway: bool, now: Timestamp) {
        let Some((state, since, news)) = self.note_coverage(upn, now) else {
            return;
        };
        if !news && !anyway {
            return;
        }
        let Some(name) = self.directory.name(upn) else {
            return;
        };
        for id in self.directory.watchers(name) {
            if let Some(stream) = self.streams.get_mut(id) {
                stream.say_coverage(name, upn, state, since);
            }
        }
    }

    /// The tenant's connection, or its real cadence, is now this.
    pub fn set_status(&mut self, health: Health, cadence: Option<Duration>) {
        let status = (health, cadence);
        if self.status == status {
            return;
        }
        for stream in self.streams.values() {
            stream.mailbox.put_status(status.0.clone(), status.1);
        }
        self.status = status;
    }

    /// The tenant's connection and its real cadence.
    pub fn status(&self) -> &(Health, Option<Duration>) {
        &self.status
    }

    /// Ends the streams that `which` picks; `end` is asked for each.
    pub fn end_streams(&self, which: impl Fn(SuiteId) -> bool, mut end: impl FnMut() -> End) {
        for stream in self.streams.values().filter(|stream| which(stream.suite)) {
            stream.mailbox.end(end());
        }
    }

    /// Ends the streams whose suite has taken nothing for `limit` although something waited. Returns how many.
    pub fn end_stalled(&self, limit: Duration, end: End) -> usize {
        let stalled = self.streams.values().filter(|stream| {
            stream
                .mailbox
                .stalled_for()
                .is_some_and(|since| since >= limit)
        });
        stalled.map(|stream| stream.mailbox.end(end)).count()
    }

    /// How many lasting streams a suite has open.
    pub fn streams_of(&self, suite: SuiteId) -> usize {
        self.streams
            .values()
            .filter(|stream| stream.suite == suite && stream.purpose == Purpose::Lasting)
            .count()
    }

    /// How many streams are open.
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Watched people who are not monitored, and why; at most `most`, in the order of their names.
    pub fn who_is_uncovered(&self, most: usize) -> Vec<(Upn, CoverageState)> {
        let mut who: Vec<_> = self
            .directory
            .upns()
            .filter_map(|upn| Some((upn, self.coverage(upn)?)))
            .filter(|(_, state)| *state != CoverageState::Monitored)
            .collect();
        who.sort_unstable_by(|a, b| a.0.as_str().cmp(b.0.as_str()));
        who.truncate(most);
        who.into_iter()
            .map(|(upn, state)| (upn.clone(), state))
            .collect()
    }

    /// How many people are watched, by coverage.
    pub fn count(&self) -> CoverageCount {
        let mut uncovered = BTreeMap::new();
        let states = self.directory.upns().filter_map(|upn| self.coverage(upn));
        for state in states.filter(|state| *state != CoverageState::Monitored) {
            *uncovered.entry(state).or_default() += 1;
        }
        let watched = self.directory.len();
        CoverageCount {
            watched,
            monitored: watched.saturating_sub(uncovered.values().sum()),
            resolving: uncovered
                .get(&CoverageState::Resolving)
                .copied()
                .unwrap_or_default(),
            uncovered,
        }
    }
}

/// Many exceptions are told as one older time for everybody.
fn freshness(as_of: Option<Timestamp>, exceptions: Vec<(Arc<str>, Timestamp)>) -> Freshness {
    if exceptions.len() <= MAX_EXCEPTIONS {
        return Freshness { as_of, exceptions };
    }
    let oldest = exceptions.iter().map(|(_, at)| *at).min();
    Freshness {
        as_of: oldest,
        exceptions: Vec::new(),
    }
}

impl Stream {
    /// The spelling asked for.
    fn asked(&self, name: NameId, upn: &Upn) -> Arc<str> {
        let spelled = self.spelled.get(&name);
        spelled.map_or_else(|| upn.to_shared(), Arc::clone)
    }

    /// What one answer has for this stream.
    fn say_batches(&mut self, batches: &[Arc<Batch>]) {
        let values = batches.iter().flat_map(|batch| batch.values());
        let spelled = |(name, _): &(NameId, Delivery)| self.spelled.contains_key(name);
        if self.awaited.is_none() && (self.spelled.is_empty() || !values.clone().any(spelled)) {
            self.mailbox.put_batches(batches);
            return;
        }
        let awaited = self.awaited.as_ref();
        let own = values.clone().map(|(name, delivery)| {
            let spelled = self.spelled.get(name).unwrap_or(&delivery.asked);
            let delivery = Delivery {
                asked: Arc::clone(spelled),
                ..delivery.clone()
            };
            let snapshot = awaited.is_some_and(|awaited| awaited.contains(name));
            (*name, delivery, snapshot)
        });
        self.mailbox.put_values(own);
        for (name, _) in values {
            self.no_longer_await(*name);
        }
    }

    fn say_value(
        &mut self,
        name: NameId,
        upn: &Upn,
        value: Value,
        confirmed_at: Timestamp,
        welcome: bool,
    ) {
        let awaited = self.awaited.as_ref();
        let snapshot = welcome || awaited.is_some_and(|awaited| awaited.contains(&name));
        let delivery = Delivery {
            asked: self.asked(name, upn),
            value,
            confirmed_at,
        };
        self.mailbox.put_value(name, delivery, snapshot);
        self.no_longer_await(name);
    }

    fn say_coverage(&mut self, name: NameId, upn: &Upn, state: CoverageState, since: Timestamp) {
        self.mailbox
            .put_coverage(upn, self.asked(name, upn), state, since);
        match state {
            CoverageState::Resolving => return,
            CoverageState::NotFound | CoverageState::Guest | CoverageState::NoPermission => {
                self.mailbox.drop_value(name);
            }
            _ => {}
        }
        self.no_longer_await(name);
    }

    /// What the suite holds of this person is no longer true. Coverage as it is now must follow.
    fn say_forget(&mut self, name: NameId, upn: &Upn, now: Timestamp) {
        self.mailbox.drop_value(name);
        self.mailbox
            .put_coverage(upn, self.asked(name, upn), CoverageState::NotFound, now);
    }

    fn no_longer_await(&mut self, name: NameId) {
        if let Some(awaited) = &mut self.awaited
            && awaited.remove(&name)
        {
            self.settle_snapshot();
        }
    }

    fn settle_snapshot(&mut self) {
        if !self.opening && self.awaited.as_ref().is_some_and(IdSet::is_empty) {
            self.awaited = None;
            self.mailbox.put_snapshot_end();
        }
    }

    /// Coverage of a text that is not watched under its own name.
    fn say_about_text(&self, text: &str, state: CoverageState, now: Timestamp) {
        let text = &text[..text.floor_char_boundary(MAX_ECHO_BYTES)];
        // Only to have a key in the mailbox: the text itself cannot be one, because it is no UPN or another spelling of one.
        let digest = crate::secret::sha256(text.as_bytes());
        let key = format!(
            "{}@invalid",
            uuid::Uuid::from_slice(&digest[..16]).unwrap_or_default()
        );
        if let Ok(key) = Upn::parse(&key) {
            self.mailbox.put_coverage(&key, text.into(), state, now);
        }
    }
}

#[cfg(test)]
mod models;
#[cfg(test)]
mod plans;
#[cfg(test)]
mod tests;
