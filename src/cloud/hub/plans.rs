//! Watch lists and plans beside the simplest model of them: several streams of a suite, lists that change, and who waits for a place.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::model::HealthState;

const PEOPLE: u8 = 7;
const SUITES: usize = 2;
const PLAN: usize = 3;

fn upn(n: u8) -> Upn {
    Upn::parse(&format!("p{n}@contoso.example")).unwrap()
}

/// Two names may be one account's.
fn account(n: u8) -> UserId {
    UserId(uuid::Uuid::from_u128(u128::from(n / 2) + 1))
}

fn at(secs: i64) -> Timestamp {
    Timestamp::from_secs(secs)
}

/// A name, and whether it is written in capital letters.
type Named = Vec<(u8, bool)>;

fn texts(names: &Named) -> Vec<String> {
    let text = |(n, shouted): &(u8, bool)| match shouted {
        true => upn(*n).as_str().to_uppercase(),
        false => upn(*n).as_str().to_owned(),
    };
    names.iter().map(text).collect()
}

#[derive(Debug, Clone)]
enum Wish {
    Open(usize, Named),
    Add(usize, Named),
    Remove(usize, Named),
    Replace(usize, Named),
    Close(usize),
}

fn wish() -> impl Strategy<Value = Wish> {
    let names = || vec((0..PEOPLE, any::<bool>()), 0..6);
    let stream = || 0..6_usize;
    prop_oneof![
        2 => (0..SUITES, names()).prop_map(|(suite, names)| Wish::Open(suite, names)),
        3 => (stream(), names()).prop_map(|(s, names)| Wish::Add(s, names)),
        3 => (stream(), names()).prop_map(|(s, names)| Wish::Remove(s, names)),
        3 => (stream(), names()).prop_map(|(s, names)| Wish::Replace(s, names)),
        1 => stream().prop_map(Wish::Close),
    ]
}

/// A stream as it should be.
struct Listed {
    suite: usize,
    opened: Opened,
    watched: BTreeSet<u8>,
    /// In the order in which they were asked for.
    waiting: Vec<u8>,
    told: BTreeMap<String, CoverageState>,
}

/// Streams in the order in which they were opened.
#[derive(Default)]
struct Lists(Vec<Listed>);

impl Lists {
    fn of_suite(&self, suite: usize) -> BTreeSet<u8> {
        let streams = self.0.iter().filter(|stream| stream.suite == suite);
        streams
            .flat_map(|stream| &stream.watched)
            .copied()
            .collect()
    }

    fn add(&mut self, s: usize, people: impl IntoIterator<Item = u8>) {
        for n in people {
            let suite = self.of_suite(self.0[s].suite);
            let stream = &mut self.0[s];
            if suite.len() < PLAN || suite.contains(&n) {
                stream.waiting.retain(|waiting| *waiting != n);
                stream.watched.insert(n);
            } else if stream.waiting.len() < PLAN && !stream.waiting.contains(&n) {
                stream.waiting.push(n);
            }
        }
    }

    fn remove(&mut self, s: usize, n: u8) {
        self.0[s].watched.remove(&n);
        self.0[s].waiting.retain(|waiting| *waiting != n);
    }

    /// Whoever waits is let in, the oldest stream first, as far as there is room.
    fn let_in(&mut self, suite: usize) {
        for s in 0..self.0.len() {
            if self.0[s].suite == suite {
                let waiting = self.0[s].waiting.clone();
                self.add(s, waiting);
            }
        }
    }
}

fn people(names: &Named) -> impl Iterator<Item = u8> + '_ {
    names.iter().map(|(n, _)| *n)
}

fn hub() -> TenantHub {
    let health = Health {
        state: HealthState::Connected,
        cause: None,
        since: at(0),
    };
    TenantHub::new(Epoch(1), LookupPace::default(), health)
}

/// Of all accounts it is known whose they are.
fn known(upn: &Upn) -> Option<(UserId, Timestamp)> {
    let n = upn.as_str()[1..2].parse().ok()?;
    Some((account(n), at(0)))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1_000) })]

    #[test]
    fn who_is_watched_is_who_is_on_a_list_and_within_the_plan(wishes in vec(wish(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _inside = runtime.enter();
        let (mut hub, mut lists) = (hub(), Lists::default());
        let ids: Vec<SuiteId> = (0..SUITES).map(|_| SuiteId::random()).collect();
        for wish in wishes {
            let of = |s: usize| s % lists.0.len().max(1);
            match wish {
                Wish::Open(suite, names) => {
                    let opened = hub.open(ids[suite], PLAN, &texts(&names), None, &known, at(0));
                    let (watched, waiting, told) = Default::default();
                    lists.0.push(Listed { suite, opened, watched, waiting, told });
                    lists.add(lists.0.len() - 1, people(&names));
                }
                _ if lists.0.is_empty() => continue,
                Wish::Add(s, names) => {
                    let s = of(s);
                    hub.add(lists.0[s].opened.id, &texts(&names), &known, at(0));
                    lists.add(s, people(&names));
                }
                Wish::Remove(s, names) => {
                    let s = of(s);
                    hub.remove(lists.0[s].opened.id, &texts(&names), &known, at(0));
                    people(&names).for_each(|n| lists.remove(s, n));
                    lists.let_in(lists.0[s].suite);
                }
                Wish::Replace(s, names) => {
                    let s = of(s);
                    hub.replace(lists.0[s].opened.id, &texts(&names), &known, at(0));
                    let wanted: BTreeSet<u8> = people(&names).collect();
                    lists.0[s].waiting.clear();
                    lists.0[s].watched.retain(|n| wanted.contains(n));
                    lists.add(s, people(&names));
                    lists.let_in(lists.0[s].suite);
                }
                Wish::Close(s) => {
                    let stream = lists.0.remove(of(s));
                    hub.close(stream.opened.id, &known, at(0));
                    lists.let_in(stream.suite);
                }
            }
            agree(&hub, &mut lists, &ids)?;
        }
        for stream in &lists.0 {
            hub.close(stream.opened.id, &known, at(0));
        }
        prop_assert!(hub.directory.is_empty() && hub.suites.is_empty() && hub.streams.is_empty());
        prop_assert!(!hub.is_watched(), "somebody is still read");
        hub.finish_sweep(at(7_200), at(7_200));
        prop_assert!((0..PEOPLE).all(|n| hub.state.value(account(n)).is_none()));
    }
}

fn agree(hub: &TenantHub, lists: &mut Lists, ids: &[SuiteId]) -> Result<(), TestCaseError> {
    let mut watchers: BTreeMap<Upn, Vec<StreamId>> = BTreeMap::new();
    for listed in &mut lists.0 {
        let stream = &hub.streams[&listed.opened.id];
        let watched = stream.watched.iter().map(|name| hub.directory.upn(*name));
        let watched: BTreeSet<Option<&str>> = watched.map(|upn| upn.map(Upn::as_str)).collect();
        let expected: Vec<Upn> = listed.watched.iter().map(|n| upn(*n)).collect();
        let expected_set = expected.iter().map(|upn| Some(upn.as_str())).collect();
        prop_assert_eq!(watched, expected_set);
        for upn in expected {
            watchers.entry(upn).or_default().push(listed.opened.id);
        }
        let waiting = stream.over_plan.order.values().map(|(upn, _)| upn.clone());
        let waiting: Vec<Upn> = waiting.collect();
        let expected: Vec<Upn> = listed.waiting.iter().map(|n| upn(*n)).collect();
        prop_assert_eq!(waiting, expected, "wait for a place");
        // What was told last is what is so.
        while let Some(parcel) = listed.opened.mailbox.take() {
            if let mailbox::Parcel::Coverage(people) = parcel {
                // Another spelling says nothing about the one that is held.
                let told = people
                    .into_iter()
                    .filter(|(_, state, _)| *state != CoverageState::Duplicate);
                listed
                    .told
                    .extend(told.map(|(asked, state, _)| (asked.to_lowercase(), state)));
            }
        }
        for n in &listed.watched {
            prop_assert_eq!(
                listed.told.get(upn(*n).as_str()),
                Some(&CoverageState::Resolving)
            );
        }
        for n in &listed.waiting {
            prop_assert_eq!(
                listed.told.get(upn(*n).as_str()),
                Some(&CoverageState::OverPlan)
            );
        }
    }
    for (suite, id) in ids.iter().enumerate() {
        let people = lists.of_suite(suite).len();
        prop_assert!(people <= PLAN);
        prop_assert_eq!(hub.suites.get(id).map_or(0, |suite| suite.people), people);
    }
    let on_lists: BTreeSet<&Upn> = watchers.keys().collect();
    prop_assert_eq!(hub.directory.upns().collect::<BTreeSet<_>>(), on_lists);
    for (upn, streams) in &watchers {
        let name = hub.directory.name(upn).unwrap();
        prop_assert_eq!(hub.directory.watchers(name), &streams[..]);
    }
    let to_read: Vec<UserId> = hub.to_read(at(0), false);
    let once: BTreeSet<UserId> = to_read.iter().copied().collect();
    prop_assert_eq!(to_read.len(), once.len(), "each account once");
    let expected = lists.0.iter().flat_map(|stream| &stream.watched);
    prop_assert_eq!(once, expected.map(|n| account(*n)).collect::<BTreeSet<_>>());
    Ok(())
}
