//! Mailboxes and watch lists beside the simplest models of them, through anything that may happen in any order.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::mailbox::{Batch, Delivery, End, EndReason, Mailbox, Parcel};
use super::{LookupOutcome, Opened, TenantHub};
use crate::cloud::directory::{LookupPace, NameId};
use crate::cloud::state::Value;
use crate::model::{
    ById, CoverageState, Epoch, Health, HealthState, Position, Presence, Sequence, SuiteId,
    Timestamp, Upn, UserId,
};

fn upn(n: u8) -> Upn {
    Upn::parse(&spelled(n)).unwrap()
}

fn spelled(n: u8) -> String {
    format!("p{n}@contoso.example")
}

fn user(n: u8) -> UserId {
    UserId(uuid::Uuid::from_u128(u128::from(n) + 1))
}

/// Something that happens to a mailbox.
#[derive(Debug, Clone)]
enum Post {
    /// An answer concerns these people; whether it belongs to the snapshot.
    Values(Vec<u8>, bool),
    /// An answer concerns these people, and others.
    Batches(Vec<Vec<u8>>),
    Drop(u8),
    SnapshotEnd,
    Freshness,
    RepeatFreshness,
    Coverage(u8),
    Take,
    TakeAll,
    End,
}

fn post() -> impl Strategy<Value = Post> {
    let people = || vec(0..6_u8, 1..5);
    prop_oneof![
        4 => (people(), any::<bool>()).prop_map(|(people, snapshot)| Post::Values(people, snapshot)),
        6 => vec(people(), 1..4).prop_map(Post::Batches),
        2 => (0..6_u8).prop_map(Post::Drop),
        1 => Just(Post::SnapshotEnd),
        2 => Just(Post::Freshness),
        1 => Just(Post::RepeatFreshness),
        1 => (0..6_u8).prop_map(Post::Coverage),
        8 => Just(Post::Take),
        2 => Just(Post::TakeAll),
        1 => prop_oneof![9 => Just(Post::Take), 1 => Just(Post::End)],
    ]
}

/// A mailbox as it should be: of everybody the newest value that was put in and not taken.
#[derive(Default)]
struct Waiting {
    newest: BTreeMap<u8, u64>,
    /// Who waited when the end of a snapshot was put in.
    before_end: Vec<BTreeSet<u8>>,
    put: u64,
    taken: u64,
    replaced: u64,
    dropped: u64,
}

impl Waiting {
    fn put(&mut self, n: u8, sequence: u64) {
        self.put += 1;
        self.replaced += u64::from(self.newest.insert(n, sequence).is_some());
    }

    fn drop(&mut self, n: u8) {
        self.dropped += u64::from(self.newest.remove(&n).is_some());
        self.no_longer_before_an_end(n);
    }

    fn no_longer_before_an_end(&mut self, n: u8) {
        for end in &mut self.before_end {
            end.remove(&n);
        }
    }

    fn takes(&mut self, parcel: Parcel, latest: u64) -> Result<(), TestCaseError> {
        match parcel.unpacked() {
            Parcel::Values {
                values,
                position,
                snapshot_complete,
                ..
            } => {
                for delivery in values {
                    let n = u8::try_from(delivery.value.user.0.as_u128() - 1).unwrap();
                    let newest = self.newest.remove(&n);
                    prop_assert_eq!(Some(delivery.value.sequence.0), newest, "of {}", n);
                    self.taken += 1;
                    self.no_longer_before_an_end(n);
                }
                if snapshot_complete {
                    let end = self.before_end.remove(0);
                    prop_assert!(end.is_empty(), "{:?} are behind the end", end);
                }
                self.may_resume_at(position, latest)?;
            }
            Parcel::Freshness(_, position) => {
                let nothing_waits = self.newest.is_empty() && self.before_end.is_empty();
                prop_assert!(nothing_waits, "what waits passes for confirmed");
                self.may_resume_at(position, latest)?;
            }
            Parcel::Coverage(people) => prop_assert!(!people.is_empty()),
            other => prop_assert!(matches!(other, Parcel::End(_)), "{:?}", other),
        }
        Ok(())
    }

    /// Whoever resumes there misses nothing that is still here.
    fn may_resume_at(&self, position: Position, latest: u64) -> Result<(), TestCaseError> {
        prop_assert!(position.sequence.0 <= latest);
        let missed = self.newest.values().find(|s| **s <= position.sequence.0);
        prop_assert_eq!(missed, None, "would be missed from {:?} on", position);
        Ok(())
    }
}

fn at(sequence: u64) -> Position {
    Position {
        epoch: Epoch(1),
        sequence: Sequence(sequence),
    }
}

fn delivery(n: u8, sequence: u64) -> Delivery {
    Delivery {
        asked: spelled(n).into(),
        value: Value {
            user: user(n),
            presence: Presence::UNKNOWN.into(),
            sequence: Sequence(sequence),
            changed_at: Timestamp::default(),
        },
        confirmed_at: Timestamp::default(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1_000) })]

    #[test]
    fn a_mailbox_holds_the_newest_of_everybody_and_loses_nothing(posts in vec(post(), 1..60)) {
        // Its clock is tokio's.
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _inside = runtime.enter();
        let mailbox = Mailbox::new(at(0));
        mailbox.begin(at(0), at(0));
        let (mut model, mut sequence, mut ended) = (Waiting::default(), 0, false);
        let (mut replaced, mut dropped) = (0, 0);
        for post in posts {
            // As the hub does: what an answer has is put in, and then the run of changes has come that far.
            let next = |sequence: &mut u64| { *sequence += 1; *sequence };
            match post {
                Post::Values(people, snapshot) => {
                    let people: BTreeSet<u8> = people.into_iter().collect();
                    let values: Vec<_> = people.into_iter().map(|n| (n, next(&mut sequence))).collect();
                    mailbox.put_values(values.iter().map(|(n, s)| (NameId((*n).into()), delivery(*n, *s), snapshot)));
                    if !ended {
                        for (n, s) in values {
                            model.put(n, s);
                        }
                    }
                }
                Post::Batches(groups) => {
                    let mut seen = BTreeSet::new();
                    let mut batches = Vec::new();
                    for group in groups {
                        let mut values = Vec::new();
                        for n in group.into_iter().filter(|n| seen.insert(*n)) {
                            let s = next(&mut sequence);
                            values.push((NameId(n.into()), delivery(n, s)));
                            if !ended {
                                model.put(n, s);
                            }
                        }
                        batches.extend(Batch::of(values));
                    }
                    mailbox.put_batches(&batches);
                }
                Post::Drop(n) => {
                    mailbox.drop_person(&upn(n), Some(NameId(n.into())));
                    model.drop(n);
                }
                Post::SnapshotEnd => {
                    mailbox.put_snapshot_end();
                    if !ended {
                        model.before_end.push(model.newest.keys().copied().collect());
                    }
                }
                Post::Freshness => mailbox.put_freshness(super::Freshness::default()),
                Post::RepeatFreshness => {
                    mailbox.repeat_freshness(std::time::Duration::ZERO);
                }
                Post::Coverage(n) => {
                    mailbox.put_coverage(&upn(n), spelled(n).into(), CoverageState::Resolving, Timestamp::default());
                }
                Post::Take => if let Some(parcel) = mailbox.take() {
                    model.takes(parcel, sequence)?;
                },
                Post::TakeAll => {
                    while let Some(parcel) = mailbox.take() {
                        model.takes(parcel, sequence)?;
                    }
                    prop_assert!(model.newest.is_empty() && model.before_end.is_empty());
                }
                Post::End => {
                    mailbox.end(End { reason: EndReason::TooSlow, reconnect_after: None });
                    model.dropped += u64::try_from(std::mem::take(&mut model.newest).len()).unwrap();
                    model.before_end.clear();
                    ended = true;
                }
            }
            let tally = mailbox.advance(at(sequence));
            replaced += tally.replaced;
            dropped += tally.dropped;
            let waiting = u64::try_from(model.newest.len()).unwrap();
            prop_assert_eq!((replaced, dropped), (model.replaced, model.dropped));
            prop_assert_eq!(model.put, model.taken + replaced + dropped + waiting, "each value is somewhere");
            prop_assert!(mailbox.len() >= model.newest.len());
        }
    }
}

const PEOPLE: u8 = 5;
const SUITES: usize = 3;
const WORDS: [&str; 4] = ["Available", "Busy", "Away", "DoNotDisturb"];

/// A place that is not where the suite was told that it is.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// It has heard more than it noted.
    Earlier(u64),
    /// The cloud has not come so far.
    Future(u64),
    /// Another run of changes.
    Foreign(u64),
}

fn place() -> impl Strategy<Value = Place> {
    let far = || prop_oneof![1..4_u64, Just(u64::MAX)];
    prop_oneof![
        far().prop_map(Place::Earlier),
        far().prop_map(Place::Future),
        far().prop_map(Place::Foreign),
    ]
}

/// Something that happens to a tenant.
#[derive(Debug, Clone)]
enum Happening {
    Add(usize, Vec<u8>),
    Remove(usize, Vec<u8>),
    Replace(usize, Vec<u8>),
    /// The suite takes so many messages.
    Hears(usize, usize),
    /// The stream breaks; what was not taken is lost. The suite comes back at once, and says what it has.
    Breaks(usize),
    /// The same, and it names another place than the one it was told.
    ReturnsElsewhere(usize, Place),
    /// Another process takes over: it knows nobody, and its run of changes is another one.
    Restarts,
    /// Microsoft is asked for some people and answers: of each of them a word.
    Answers([Option<u8>; PEOPLE as usize]),
    /// Names are looked up; whose they are now.
    LookedUp([Option<u8>; PEOPLE as usize]),
}

fn happening() -> impl Strategy<Value = Happening> {
    let suite = || 0..SUITES;
    let people = || vec(0..PEOPLE, 0..4);
    prop_oneof![
        2 => (suite(), people()).prop_map(|(s, p)| Happening::Add(s, p)),
        2 => (suite(), people()).prop_map(|(s, p)| Happening::Remove(s, p)),
        1 => (suite(), people()).prop_map(|(s, p)| Happening::Replace(s, p)),
        4 => (suite(), 1..4_usize).prop_map(|(s, n)| Happening::Hears(s, n)),
        2 => suite().prop_map(Happening::Breaks),
        2 => (suite(), place()).prop_map(|(s, place)| Happening::ReturnsElsewhere(s, place)),
        1 => Just(Happening::Restarts),
        5 => proptest::array::uniform5(proptest::option::weighted(0.9, 0..4_u8)).prop_map(Happening::Answers),
        3 => proptest::array::uniform5(proptest::option::weighted(0.8, 0..PEOPLE)).prop_map(Happening::LookedUp),
    ]
}

/// A suite as the contract wants it: forgets by coverage and by no longer watching, keeps the newest.
struct Suite {
    id: SuiteId,
    /// It writes some names in capital letters.
    shouts: bool,
    opened: Opened,
    watched: BTreeSet<u8>,
    values: BTreeMap<u8, (String, u64)>,
    /// As told last. Of somebody who is being looked up an old value is held, and not shown as it is now.
    coverage: BTreeMap<u8, CoverageState>,
    position: Option<Position>,
    complete: bool,
}

impl Suite {
    fn new(hub: &mut TenantHub, shouts: bool, watched: BTreeSet<u8>, now: Timestamp) -> Self {
        let id = SuiteId::random();
        let list: Vec<String> = watched.iter().map(|n| written(*n, shouts)).collect();
        Self {
            id,
            shouts,
            opened: hub.open(id, 50, &list, None, &|_| None, now),
            watched,
            values: BTreeMap::new(),
            coverage: BTreeMap::new(),
            position: None,
            complete: false,
        }
    }

    /// What it shows as it is now.
    fn words(&self) -> BTreeMap<u8, &str> {
        let looked_up = |n: &u8| self.coverage.get(n) != Some(&CoverageState::Resolving);
        let values = self.values.iter().filter(|(n, _)| looked_up(n));
        values.map(|(n, (word, _))| (*n, word.as_str())).collect()
    }

    fn names<'a>(&self, people: impl IntoIterator<Item = &'a u8>) -> Vec<String> {
        let names = people.into_iter().map(|n| written(*n, self.shouts));
        names.collect()
    }

    fn hears(&mut self, parcel: Parcel, tenant: &Tenant) -> Result<(), TestCaseError> {
        let shouts = self.shouts;
        let who = |asked: &str| (0..PEOPLE).find(|n| written(*n, shouts) == asked);
        match parcel.unpacked() {
            Parcel::Values {
                values,
                position,
                snapshot_complete,
                ..
            } => {
                for value in values {
                    let n = who(&value.asked).unwrap();
                    prop_assert!(self.watched.contains(&n), "nobody asked for {}", n);
                    let sequence = value.value.sequence.0;
                    if self.values.get(&n).is_none_or(|(_, held)| *held < sequence) {
                        let word = value.value.presence.availability.as_str().to_owned();
                        self.values.insert(n, (word, sequence));
                    }
                }
                self.complete |= snapshot_complete;
                self.position = Some(position);
            }
            Parcel::Freshness(freshness, position) => {
                self.position = Some(position);
                self.believes(&freshness, tenant)?;
            }
            Parcel::Coverage(people) => {
                for (asked, state, _) in people {
                    let n = who(&asked).unwrap();
                    self.coverage.insert(n, state);
                    if state == CoverageState::NotFound {
                        self.values.remove(&n);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Of everybody who passes for confirmed as of a time, Microsoft has said just that since then.
    fn believes(&self, freshness: &super::Freshness, tenant: &Tenant) -> Result<(), TestCaseError> {
        for (n, word) in self.words() {
            let asked = written(n, self.shouts);
            let mut exceptions = freshness.exceptions.iter();
            let exception = exceptions.find(|(name, _)| **name == *asked);
            let Some(confirmed) = exception.map(|(_, at)| *at).or(freshness.as_of) else {
                continue;
            };
            let account = tenant.names.get(&n).copied().flatten();
            let so = account.and_then(|account| tenant.shows.get(&account));
            let Some((so, said_at)) = so else {
                return Err(TestCaseError::fail(format!("{n} was never read")));
            };
            prop_assert_eq!(word, so.as_str(), "of {}", n);
            prop_assert!(confirmed <= *said_at, "{} was not confirmed then", n);
        }
        Ok(())
    }

    /// Where it may resume. Before its snapshot was complete there is no place to come back to.
    fn place(&self) -> Option<Position> {
        self.position.filter(|_| self.complete)
    }

    /// Opens its next stream, and says what it has.
    fn returns(
        &mut self,
        hub: &mut TenantHub,
        place: Option<Position>,
        tenant: &Tenant,
        now: Timestamp,
    ) -> Result<(), TestCaseError> {
        let of = |n: u8| tenant.names.get(&n).copied().flatten();
        let known = |upn: &Upn| {
            let n = (0..PEOPLE).find(|n| spelled(*n) == upn.as_str())?;
            Some((of(n)?, now))
        };
        let latest = hub.state.position();
        let is_known =
            place.is_some_and(|at| at.epoch == latest.epoch && at.sequence <= latest.sequence);
        // A stream with a place names whom the suite holds values of; the others are added.
        let (held, rest): (Vec<u8>, Vec<u8>) = self
            .watched
            .iter()
            .partition(|n| place.is_none() || self.values.contains_key(*n));
        self.opened = hub.open(self.id, 50, &self.names(&held), place, &known, now);
        // Each stream tells anew who is not monitored.
        self.coverage.clear();
        prop_assert_eq!(self.opened.resumed, is_known);
        if !is_known {
            self.values.clear();
            self.complete = false;
            self.position = None;
        }
        hub.add(self.opened.id, &self.names(&rest), &known, now);
        Ok(())
    }

    fn hears_all(&mut self, tenant: &Tenant) -> Result<(), TestCaseError> {
        while let Some(parcel) = self.opened.mailbox.take() {
            self.hears(parcel, tenant)?;
        }
        Ok(())
    }
}

fn written(n: u8, shouts: bool) -> String {
    if shouts && n.is_multiple_of(2) {
        spelled(n).to_uppercase()
    } else {
        spelled(n)
    }
}

/// A tenant as it should be: whose each name is, and what each account shows.
#[derive(Default)]
struct Tenant {
    names: BTreeMap<u8, Option<UserId>>,
    /// And when Microsoft was last asked.
    shows: HashMap<UserId, (String, Timestamp)>,
}

fn start() -> Timestamp {
    Timestamp::from_secs(1_800_000_000)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(600) })]

    #[test]
    fn suites_that_come_and_go_and_resume_know_what_is_so(happenings in vec((happening(), 0..300_u64), 1..50)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _inside = runtime.enter();
        let mut now = start();
        let process = |epoch| {
            let health = Health { state: HealthState::Connected, cause: None, since: start() };
            TenantHub::new(Epoch(epoch), LookupPace::default(), health)
        };
        let (mut epoch, mut hub) = (1, process(1));
        let mut tenant = Tenant::default();
        let nobody = |_: &Upn| None;
        let mut suites: Vec<Suite> = (0..SUITES).map(|n| Suite::new(&mut hub, n == 0, BTreeSet::new(), now)).collect();
        for (happening, later) in happenings {
            now = now.plus(Duration::from_secs(later));
            match happening {
                Happening::Add(s, people) => {
                    hub.add(suites[s].opened.id, &suites[s].names(&people), &nobody, now);
                    suites[s].watched.extend(people);
                }
                Happening::Remove(s, people) => {
                    hub.remove(suites[s].opened.id, &suites[s].names(&people), &nobody, now);
                    for n in people {
                        suites[s].watched.remove(&n);
                        suites[s].values.remove(&n);
                        suites[s].coverage.remove(&n);
                    }
                }
                Happening::Replace(s, people) => {
                    hub.replace(suites[s].opened.id, &suites[s].names(&people), &nobody, now);
                    suites[s].watched = people.into_iter().collect();
                    let watched = suites[s].watched.clone();
                    suites[s].values.retain(|n, _| watched.contains(n));
                    suites[s].coverage.retain(|n, _| watched.contains(n));
                }
                Happening::Hears(s, messages) => {
                    for _ in 0..messages {
                        let Some(parcel) = suites[s].opened.mailbox.take() else { break };
                        suites[s].hears(parcel, &tenant)?;
                    }
                }
                Happening::Restarts => {
                    epoch += 1;
                    hub = process(epoch);
                    for suite in &mut suites {
                        suite.returns(&mut hub, suite.place(), &tenant, now)?;
                    }
                }
                Happening::Breaks(s) | Happening::ReturnsElsewhere(s, _) => {
                    let suite = &mut suites[s];
                    hub.close(suite.opened.id, &nobody, now);
                    let mut place = suite.place();
                    if let (Happening::ReturnsElsewhere(_, other), Some(place)) = (&happening, &mut place) {
                        let sequence = place.sequence.0;
                        match other {
                            Place::Earlier(by) => place.sequence = Sequence(sequence.saturating_sub(*by)),
                            Place::Future(by) => place.sequence = Sequence(hub.state.position().sequence.0.saturating_add(*by)),
                            Place::Foreign(by) => place.epoch = Epoch(epoch.wrapping_add(*by)),
                        }
                    }
                    suite.returns(&mut hub, place, &tenant, now)?;
                }
                Happening::Answers(words) => {
                    let asked = hub.to_read(now, false);
                    let mut answer = ById::default();
                    for user in &asked {
                        let n = usize::try_from(user.0.as_u128() - 1).unwrap();
                        if let Some(word) = words[n] {
                            let word = WORDS[usize::from(word)];
                            answer.insert(*user, Presence::from_microsoft(Some(word), Some(word)));
                            tenant.shows.insert(*user, (word.to_owned(), now));
                        }
                    }
                    // Somebody who is left out again and again becomes unknown; here everybody answers in the end.
                    let answered: Vec<UserId> = asked.iter().copied().filter(|user| answer.contains_key(user)).collect();
                    hub.apply_readings(&answered, answer, now, now);
                    hub.finish_sweep(now, now);
                }
                Happening::LookedUp(whose) => {
                    let mut outcome = LookupOutcome::default();
                    for n in 0..PEOPLE {
                        match whose[usize::from(n)] {
                            Some(m) => outcome.found.push((upn(n), user(m))),
                            None => outcome.not_found.push(upn(n)),
                        }
                        tenant.names.insert(n, whose[usize::from(n)].map(user));
                    }
                    hub.apply_lookup(outcome, now);
                }
            }
            let watched: BTreeSet<u8> = suites.iter().flat_map(|suite| suite.watched.iter().copied()).collect();
            prop_assert_eq!(hub.count().watched, watched.len());
            prop_assert_eq!(hub.streams(), SUITES);
        }
        // Whoever came back and was told what changed meanwhile knows what a newcomer is told.
        for suite in &mut suites {
            let mut newcomer = Suite::new(&mut hub, suite.shouts, suite.watched.clone(), now);
            suite.hears_all(&tenant)?;
            newcomer.hears_all(&tenant)?;
            prop_assert_eq!(suite.words(), newcomer.words());
            hub.close(newcomer.opened.id, &nobody, now);
        }
        // Everything is looked up and read once more: then every suite knows exactly what is so.
        let outcome = LookupOutcome {
            found: (0..PEOPLE).map(|n| (upn(n), user(n))).collect(),
            ..LookupOutcome::default()
        };
        hub.apply_lookup(outcome, now);
        tenant.names = (0..PEOPLE).map(|n| (n, Some(user(n)))).collect();
        let asked = hub.to_read(now, false);
        let watched: BTreeSet<u8> = suites.iter().flat_map(|suite| suite.watched.iter().copied()).collect();
        let expected: BTreeSet<UserId> = watched.iter().map(|n| user(*n)).collect();
        prop_assert_eq!(asked.iter().copied().collect::<BTreeSet<_>>(), expected, "exactly those watched are read");
        let shown = |user: &UserId| WORDS[usize::try_from(user.0.as_u128() % 3).unwrap()];
        let answer = asked.iter().map(|user| (*user, Presence::from_microsoft(Some(shown(user)), Some(shown(user)))));
        let shows = asked.iter().map(|user| (*user, (shown(user).to_owned(), now)));
        tenant.shows.extend(shows);
        hub.apply_readings(&asked, answer.collect(), now, now);
        hub.finish_sweep(now, now);
        for suite in &mut suites {
            suite.hears_all(&tenant)?;
            let so: BTreeMap<u8, &str> = suite.watched.iter().map(|n| (*n, shown(&user(*n)))).collect();
            prop_assert_eq!(suite.words(), so);
        }
        for suite in &suites {
            hub.close(suite.opened.id, &nobody, now);
        }
        prop_assert_eq!((hub.count().watched, hub.streams()), (0, 0));
        prop_assert!(hub.to_read(now, false).is_empty());
    }
}
