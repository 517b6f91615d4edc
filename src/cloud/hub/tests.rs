use super::mailbox::Parcel;
use super::*;
use crate::model::{HealthState, Sequence};

fn at(secs: i64) -> Timestamp {
    Timestamp::from_secs(secs)
}

fn user(n: u128) -> UserId {
    UserId(uuid::Uuid::from_u128(n))
}

fn name(n: u128) -> String {
    format!("Person{n}@contoso.com")
}

fn upn(n: u128) -> Upn {
    Upn::parse(&name(n)).unwrap()
}

fn saying(text: &str) -> Presence {
    Presence::from_microsoft(Some(text), None)
}

fn hub() -> TenantHub {
    let health = Health {
        state: HealthState::Pending,
        cause: None,
        since: at(0),
    };
    TenantHub::new(Epoch(7), LookupPace::default(), health)
}

fn nobody(_: &Upn) -> Option<(UserId, Timestamp)> {
    None
}

/// Everything a suite holds after reading its mailbox to the end.
#[derive(Default, Debug)]
struct Held {
    values: HashMap<String, (String, u64)>,
    coverage: HashMap<String, CoverageState>,
    complete: bool,
    position: Option<Position>,
    freshness: Option<Freshness>,
    end: Option<End>,
}

impl Held {
    fn read(&mut self, mailbox: &Mailbox) {
        while let Some(parcel) = mailbox.take() {
            match parcel.unpacked() {
                Parcel::Batches(..) => unreachable!("unpacked"),
                Parcel::Values {
                    values,
                    snapshot_complete,
                    position,
                    ..
                } => {
                    for v in values {
                        let text = v.value.presence.availability.as_str().to_owned();
                        self.values
                            .insert(v.asked.to_string(), (text, v.value.sequence.0));
                    }
                    self.complete |= snapshot_complete;
                    self.position = Some(position);
                }
                Parcel::Coverage(people) => {
                    self.coverage
                        .extend(people.into_iter().map(|(u, s, _)| (u.to_string(), s)));
                }
                Parcel::Status(..) => {}
                Parcel::Freshness(freshness, position) => {
                    self.freshness = Some(freshness);
                    self.position = Some(position);
                }
                Parcel::End(end) => self.end = Some(end),
            }
        }
    }

    fn of(mailbox: &Mailbox) -> Self {
        let mut held = Self::default();
        held.read(mailbox);
        held
    }
}

/// A stream watching people 1..=n, all found and read as `Available`.
fn watching(hub: &mut TenantHub, n: u128) -> Opened {
    let names: Vec<String> = (1..=n).map(name).collect();
    let opened = hub.open(SuiteId::random(), 1000, &names, None, &nobody, at(0));
    let found = (1..=n).map(|i| (upn(i), user(i))).collect();
    hub.take_lookups(at(0), 1000);
    hub.apply_lookup(
        LookupOutcome {
            found,
            ..LookupOutcome::default()
        },
        at(0),
    );
    read(hub, 1..=n, "Available", 1);
    opened
}

fn read(hub: &mut TenantHub, people: std::ops::RangeInclusive<u128>, saying_what: &str, secs: i64) {
    let ids: Vec<UserId> = people.map(user).collect();
    let answer = ids.iter().map(|id| (*id, saying(saying_what))).collect();
    hub.apply_readings(&ids, answer, at(secs), at(secs));
    hub.finish_sweep(at(secs), at(secs));
}

#[tokio::test]
async fn a_snapshot_is_complete_when_everybody_has_an_answer_and_not_before() {
    let mut hub = hub();
    let names: Vec<String> = (1..=3).map(name).collect();
    let opened = hub.open(SuiteId::random(), 10, &names, None, &nobody, at(0));
    let mut held = Held::of(&opened.mailbox);
    assert!(!held.complete && !opened.resumed);
    assert_eq!(held.coverage[&name(1)], CoverageState::Resolving);
    let outcome = LookupOutcome {
        found: vec![(upn(1), user(1)), (upn(2), user(2))],
        not_found: vec![upn(3)],
        ..LookupOutcome::default()
    };
    hub.apply_lookup(outcome, at(1));
    read(&mut hub, 1..=1, "Busy", 2);
    held.read(&opened.mailbox);
    assert!(!held.complete, "person 2 has not been read");
    read(&mut hub, 2..=2, "Away", 3);
    held.read(&opened.mailbox);
    assert!(held.complete);
    assert_eq!(held.values[&name(1)].0, "Busy");
    assert_eq!(held.coverage[&name(3)], CoverageState::NotFound);
    assert_eq!(held.coverage[&name(2)], CoverageState::Monitored);
}

#[tokio::test]
async fn an_empty_watch_list_is_a_complete_snapshot() {
    let mut hub = hub();
    let opened = hub.open(SuiteId::random(), 10, &[], None, &nobody, at(0));
    assert!(Held::of(&opened.mailbox).complete);
}

#[tokio::test]
async fn resuming_brings_what_changed_meanwhile_and_nothing_else() {
    let mut hub = hub();
    let opened = watching(&mut hub, 5);
    let position = Held::of(&opened.mailbox).position.unwrap();
    hub.close(opened.id, &nobody, at(2));
    let other = hub.open(
        SuiteId::random(),
        10,
        &[name(2)],
        None,
        &|u| (*u == upn(2)).then(|| (user(2), at(0))),
        at(3),
    );
    read(&mut hub, 2..=2, "Busy", 4);
    let known = |u: &Upn| (1..=5).find(|n| upn(*n) == *u).map(|n| (user(n), at(0)));
    let names: Vec<String> = (1..=5).map(name).collect();
    let again = hub.open(SuiteId::random(), 10, &names, Some(position), &known, at(5));
    let held = Held::of(&again.mailbox);
    assert!(again.resumed && !held.complete);
    assert_eq!(held.values.len(), 1, "{held:?}");
    assert_eq!(held.values[&name(2)], ("Busy".into(), 6));
    // The others have not been confirmed since.
    let freshness = held.freshness.unwrap();
    assert_eq!(freshness.as_of, Some(at(4)));
    let mut lagging: Vec<_> = freshness
        .exceptions
        .iter()
        .map(|(u, t)| (u.to_string(), *t))
        .collect();
    lagging.sort();
    assert_eq!(lagging, [1, 3, 4, 5].map(|n| (name(n), at(1))));
    drop(other);
}

#[tokio::test]
async fn a_foreign_or_future_position_gets_a_snapshot() {
    let mut hub = hub();
    let opened = watching(&mut hub, 2);
    drop(opened);
    for wrong in [
        Position {
            epoch: Epoch(6),
            sequence: Sequence(1),
        },
        Position {
            epoch: Epoch(7),
            sequence: Sequence(99),
        },
    ] {
        let again = hub.open(
            SuiteId::random(),
            10,
            &[name(1)],
            Some(wrong),
            &nobody,
            at(5),
        );
        let held = Held::of(&again.mailbox);
        assert!(!again.resumed && held.complete);
        assert_eq!(held.values.len(), 1);
    }
}

#[tokio::test]
async fn names_that_cannot_be_watched_are_told_and_harm_nobody() {
    let mut hub = hub();
    let names = [
        name(1),
        "PERSON1@CONTOSO.COM".into(),
        "not a name".into(),
        name(2),
        name(3),
    ];
    let opened = hub.open(SuiteId::random(), 2, &names, None, &nobody, at(0));
    let held = Held::of(&opened.mailbox);
    assert_eq!(
        held.coverage["PERSON1@CONTOSO.COM"],
        CoverageState::Duplicate
    );
    assert_eq!(held.coverage["not a name"], CoverageState::Invalid);
    assert_eq!(held.coverage[&name(2)], CoverageState::Resolving);
    assert_eq!(held.coverage[&name(3)], CoverageState::OverPlan);
    hub.remove(opened.id, &[name(1)], &nobody, at(1));
    let held = Held::of(&opened.mailbox);
    assert_eq!(
        held.coverage[&name(3)],
        CoverageState::Resolving,
        "there is room now"
    );
}

#[tokio::test]
async fn the_plan_counts_all_streams_of_a_suite() {
    let mut hub = hub();
    let suite = SuiteId::random();
    hub.open(suite, 2, &[name(1), name(2)], None, &nobody, at(0));
    let second = hub.open(suite, 2, &[name(3)], None, &nobody, at(0));
    assert_eq!(
        Held::of(&second.mailbox).coverage[&name(3)],
        CoverageState::OverPlan
    );
    let other = hub.open(SuiteId::random(), 2, &[name(3)], None, &nobody, at(0));
    assert_eq!(
        Held::of(&other.mailbox).coverage[&name(3)],
        CoverageState::Resolving
    );
}

#[tokio::test]
async fn a_suite_hears_only_of_people_it_watches() {
    let mut hub = hub();
    let a = watching(&mut hub, 3);
    let known = |_: &Upn| Some((user(2), at(0)));
    let b = hub.open(SuiteId::random(), 10, &[name(2)], None, &known, at(2));
    read(&mut hub, 1..=3, "Busy", 3);
    assert_eq!(
        Held::of(&b.mailbox).values.keys().collect::<Vec<_>>(),
        [&name(2)]
    );
    assert_eq!(Held::of(&a.mailbox).values.len(), 3);
    hub.replace(a.id, &[name(1)], &nobody, at(4));
    read(&mut hub, 1..=3, "Away", 5);
    assert_eq!(
        Held::of(&a.mailbox).values.keys().collect::<Vec<_>>(),
        [&name(1)]
    );
}

#[tokio::test]
async fn somebody_deleted_loses_the_value() {
    let mut hub = hub();
    let opened = watching(&mut hub, 2);
    Held::of(&opened.mailbox);
    read(&mut hub, 1..=1, "Busy", 2);
    hub.apply_lookup(
        LookupOutcome {
            not_found: vec![upn(1)],
            ..LookupOutcome::default()
        },
        at(3),
    );
    let held = Held::of(&opened.mailbox);
    assert_eq!(held.coverage[&name(1)], CoverageState::NotFound);
    assert!(
        !held.values.contains_key(&name(1)),
        "the value that waited is not sent"
    );
    assert_eq!(hub.to_read(at(4), false), [user(2)]);
}

#[tokio::test]
async fn many_who_lag_are_told_as_one_older_time() {
    let mut hub = hub();
    let opened = watching(&mut hub, 300);
    read(&mut hub, 1..=10, "Available", 50);
    let freshness = Held::of(&opened.mailbox).freshness.unwrap();
    assert_eq!(
        freshness,
        Freshness {
            as_of: Some(at(1)),
            exceptions: vec![]
        }
    );
    read(&mut hub, 1..=290, "Available", 60);
    let freshness = Held::of(&opened.mailbox).freshness.unwrap();
    assert_eq!(
        (freshness.as_of, freshness.exceptions.len()),
        (Some(at(60)), 10)
    );
}

#[tokio::test]
async fn nobody_watching_means_nothing_to_read() {
    let mut hub = hub();
    let opened = watching(&mut hub, 3);
    assert!(hub.is_watched());
    hub.close(opened.id, &nobody, at(2));
    assert!(!hub.is_watched());
    assert!(hub.to_read(at(2), false).is_empty() && hub.take_lookups(at(2), 9).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stalled_stream_is_ended_and_the_others_go_on() {
    let mut hub = hub();
    let a = watching(&mut hub, 3);
    let b = hub.open(SuiteId::random(), 10, &[], None, &nobody, at(2));
    tokio::time::advance(Duration::from_secs(30)).await;
    Held::of(&b.mailbox);
    let end = End {
        reason: mailbox::EndReason::TooSlow,
        reconnect_after: Some(Duration::ZERO),
    };
    assert_eq!(hub.end_stalled(Duration::from_secs(30), end), 1);
    assert_eq!(Held::of(&a.mailbox).end, Some(end));
    read(&mut hub, 1..=3, "Busy", 5);
    assert_eq!(Held::of(&b.mailbox).end, None);
}

#[tokio::test]
async fn a_kept_value_found_again_by_a_lookup_does_not_pass_for_confirmed() {
    let mut hub = hub();
    let first = watching(&mut hub, 2);
    hub.remove(first.id, &[name(2)], &nobody, at(2));
    read(&mut hub, 1..=1, "Available", 50);
    let again = hub.open(SuiteId::random(), 10, &[name(2)], None, &nobody, at(51));
    hub.take_lookups(at(51), 10);
    let outcome = LookupOutcome {
        found: vec![(upn(2), user(2))],
        ..LookupOutcome::default()
    };
    hub.apply_lookup(outcome, at(51));
    let held = Held::of(&again.mailbox);
    assert_eq!(held.values[&name(2)].0, "Available");
    let exceptions = held.freshness.unwrap().exceptions;
    assert_eq!(exceptions, [(Arc::from(name(2)), at(1))]);
}

#[tokio::test]
async fn a_snapshot_of_people_known_already_is_complete_with_the_last_of_them() {
    let mut hub = hub();
    watching(&mut hub, 3);
    let names: Vec<String> = (1..=3).map(name).collect();
    let second = hub.open(SuiteId::random(), 10, &names, None, &nobody, at(2));
    let Some(Parcel::Status(..)) = second.mailbox.take().map(Parcel::unpacked) else {
        panic!()
    };
    let Some(Parcel::Values {
        values,
        snapshot_complete,
        position,
        ..
    }) = second.mailbox.take().map(Parcel::unpacked)
    else {
        panic!()
    };
    assert_eq!((values.len(), snapshot_complete), (3, true));
    assert_eq!(position, second.position);
}

fn found(hub: &mut TenantHub, upn: Upn, user: UserId, secs: i64) {
    let outcome = LookupOutcome {
        found: vec![(upn, user)],
        ..LookupOutcome::default()
    };
    hub.apply_lookup(outcome, at(secs));
}

/// A suite as the contract wants it: forgets by coverage, keeps the higher sequence.
#[derive(Default)]
struct Suite {
    values: HashMap<String, (String, u64)>,
    coverage: HashMap<String, CoverageState>,
    position: Option<Position>,
}

impl Suite {
    fn read(&mut self, mailbox: &Mailbox) {
        while let Some(parcel) = mailbox.take() {
            match parcel.unpacked() {
                Parcel::Batches(..) => unreachable!("unpacked"),
                Parcel::Values {
                    values, position, ..
                } => {
                    for v in values {
                        let text = v.value.presence.availability.as_str().to_owned();
                        let new = (text, v.value.sequence.0);
                        let held = self.values.entry(v.asked.to_string());
                        let held = held.or_insert_with(|| new.clone());
                        if held.1 < new.1 {
                            *held = new;
                        }
                    }
                    self.position = Some(position);
                }
                Parcel::Coverage(people) => {
                    for (upn, state, _) in people {
                        if state == CoverageState::NotFound {
                            self.values.remove(&*upn);
                        }
                        self.coverage.insert(upn.to_string(), state);
                    }
                }
                Parcel::Freshness(_, position) => self.position = Some(position),
                Parcel::Status(..) | Parcel::End(..) => {}
            }
        }
    }

    fn holds(&self, n: u128) -> Option<&str> {
        self.values.get(&name(n)).map(|(text, _)| text.as_str())
    }
}

#[tokio::test]
async fn a_name_that_moves_to_a_colleague_known_already_shows_the_colleague() {
    let mut hub = hub();
    let opened = watching(&mut hub, 2);
    read(&mut hub, 2..=2, "Busy", 2);
    read(&mut hub, 1..=1, "Away", 3);
    let mut suite = Suite::default();
    suite.read(&opened.mailbox);
    assert_eq!(suite.holds(1), Some("Away"));
    // Person 1's name now belongs to account 2, whose value is older than the one held.
    found(&mut hub, upn(1), user(2), 4);
    suite.read(&opened.mailbox);
    assert_eq!(suite.holds(1), Some("Busy"));
    assert_eq!(suite.coverage[&name(1)], CoverageState::Monitored);
}

#[tokio::test]
async fn a_name_that_moves_to_a_stranger_shows_nobody_until_the_stranger_is_read() {
    let mut hub = hub();
    let opened = watching(&mut hub, 2);
    read(&mut hub, 1..=1, "Away", 3);
    let mut suite = Suite::default();
    suite.read(&opened.mailbox);
    // A value that waits must not be told under the name any more either.
    read(&mut hub, 1..=1, "Busy", 4);
    found(&mut hub, upn(1), user(9), 5);
    suite.read(&opened.mailbox);
    assert_eq!(suite.holds(1), None);
    assert_eq!(suite.coverage[&name(1)], CoverageState::Resolving);
    let answer = ById::from_iter([(user(9), saying("Offline"))]);
    hub.apply_readings(&[user(9)], answer, at(6), at(6));
    suite.read(&opened.mailbox);
    assert_eq!(suite.holds(1), Some("Offline"));
    assert_eq!(suite.coverage[&name(1)], CoverageState::Monitored);
}

#[tokio::test]
async fn a_name_that_moved_while_a_suite_was_away_shows_the_colleague_when_it_resumes() {
    // With another suite that watches the name meanwhile, and without.
    for another_watches in [true, false] {
        let mut hub = hub();
        let opened = watching(&mut hub, 2);
        read(&mut hub, 2..=2, "Busy", 2);
        read(&mut hub, 1..=1, "Away", 3);
        let mut suite = Suite::default();
        suite.read(&opened.mailbox);
        let known = |u: &Upn| (*u == upn(1)).then(|| (user(1), at(0)));
        let other = another_watches
            .then(|| hub.open(SuiteId::random(), 10, &[name(1)], None, &known, at(3)));
        hub.close(opened.id, &nobody, at(3));
        found(&mut hub, upn(1), user(2), 4);
        let known = |u: &Upn| (*u == upn(1)).then(|| (user(2), at(4)));
        let names = [name(1)];
        let again = hub.open(SuiteId::random(), 10, &names, suite.position, &known, at(5));
        assert!(again.resumed);
        suite.read(&again.mailbox);
        assert_eq!(suite.holds(1), Some("Busy"), "{another_watches}");
        drop(other);
    }
}

#[tokio::test]
async fn being_looked_up_is_told_once() {
    let mut hub = hub();
    let opened = hub.open(SuiteId::random(), 10, &[name(1)], None, &nobody, at(0));
    assert_eq!(Held::of(&opened.mailbox).coverage.len(), 1);
    found(&mut hub, upn(1), user(1), 1);
    assert!(Held::of(&opened.mailbox).coverage.is_empty());
    read(&mut hub, 1..=1, "Busy", 2);
    let held = Held::of(&opened.mailbox);
    assert_eq!(held.coverage[&name(1)], CoverageState::Monitored);
}

#[tokio::test]
async fn a_suite_that_comes_back_before_its_old_stream_is_missed_has_room_for_everybody() {
    let mut hub = hub();
    let suite = SuiteId::random();
    let list: Vec<String> = (1..=3).map(name).collect();
    let old = hub.open(suite, 3, &list, None, &nobody, at(0));
    let new = hub.open(suite, 3, &list, None, &nobody, at(1));
    let held = Held::of(&new.mailbox);
    assert!(
        held.coverage
            .values()
            .all(|state| *state == CoverageState::Resolving),
        "{held:?}"
    );
    hub.close(old.id, &nobody, at(2));
    assert_eq!(
        Held::of(&hub.open(suite, 3, &[name(4)], None, &nobody, at(2)).mailbox).coverage[&name(4)],
        CoverageState::OverPlan,
        "three are watched still"
    );
}

#[tokio::test]
async fn room_that_one_stream_leaves_is_given_to_the_others_of_the_suite() {
    let mut hub = hub();
    let suite = SuiteId::random();
    let first = hub.open(suite, 2, &[name(1), name(2)], None, &nobody, at(0));
    let second = hub.open(suite, 2, &[name(3), name(4)], None, &nobody, at(0));
    let third = hub.open(suite, 2, &[name(4)], None, &nobody, at(0));
    let waits = |stream: &Opened| {
        let held = Held::of(&stream.mailbox);
        let over = held
            .coverage
            .values()
            .filter(|s| **s == CoverageState::OverPlan);
        (over.count(), held.coverage.len())
    };
    assert_eq!((waits(&second), waits(&third)), ((2, 2), (1, 1)));
    hub.remove(first.id, &[name(1)], &nobody, at(1));
    assert_eq!((waits(&second), waits(&third)), ((0, 1), (0, 0)));
    hub.close(first.id, &nobody, at(2));
    assert_eq!((waits(&second), waits(&third)), ((0, 1), (0, 1)));
    let fourth = hub.open(suite, 2, &[name(5)], None, &nobody, at(3));
    assert_eq!(waits(&fourth), (1, 1));
    hub.replace(second.id, &[name(4)], &nobody, at(4));
    assert_eq!(waits(&fourth), (0, 1));
}

#[tokio::test]
async fn a_place_is_a_stream_that_can_be_ended_and_one_answer_needs_none() {
    let mut hub = hub();
    let suite = SuiteId::random();
    let place = hub.reserve(suite, 10, Purpose::Lasting, 1).unwrap();
    assert!(hub.reserve(suite, 10, Purpose::Lasting, 1).is_none());
    assert!(hub.reserve(suite, 10, Purpose::OneAnswer, 1).is_some());
    hub.end_streams(
        |_| true,
        || End {
            reason: mailbox::EndReason::Revoked,
            reconnect_after: None,
        },
    );
    assert_eq!(place.mailbox.ended().await, mailbox::EndReason::Revoked);
}

#[test]
fn a_long_list_beyond_the_plan_costs_no_more_than_a_short_one() {
    // A hundred times as long: with a walk through the list for each name this takes minutes.
    let mut hub = hub();
    let list: Vec<String> = (0..50_000).map(name).collect();
    let opened = hub.open(SuiteId::random(), 25_000, &list, None, &nobody, at(0));
    for part in list.chunks(1000).rev() {
        hub.remove(opened.id, part, &nobody, at(1));
    }
    assert_eq!(hub.count().watched, 0);
}

#[tokio::test]
async fn who_comes_onto_the_plan_by_another_list_is_watched_wherever_the_suite_waits_for_him() {
    let mut hub = hub();
    let suite = SuiteId::random();
    let one = hub.open(suite, 2, &[name(1), name(2)], None, &nobody, at(0));
    let two = hub.open(suite, 2, &[name(3)], None, &nobody, at(0));
    assert_eq!(
        Held::of(&two.mailbox).coverage[&name(3)],
        CoverageState::OverPlan
    );
    // The plan is as full as before.
    hub.replace(one.id, &[name(2), name(3)], &nobody, at(1));
    assert_eq!(
        Held::of(&two.mailbox).coverage[&name(3)],
        CoverageState::Resolving
    );
}
