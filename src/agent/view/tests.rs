use proptest::prelude::*;

use super::*;
use crate::wire;
use v1::watch_response::Response;

fn at(secs: i64) -> Timestamp {
    Timestamp::from_secs(secs)
}

fn position(epoch: u64, sequence: u64) -> v1::Position {
    v1::Position { epoch, sequence }
}

fn opened(epoch: u64, resumed: bool) -> Response {
    Response::Opened(v1::Opened {
        protocol_version: 1,
        position: Some(position(epoch, 0)),
        resumed,
        heartbeat_interval: Some(wire::duration(Duration::from_secs(5))),
        max_watched: 100,
    })
}

fn value(upn: &str, text: &str, sequence: u64) -> v1::Presence {
    let presence = Presence::from_microsoft(Some(text), None);
    wire::presence(upn, &presence, Sequence(sequence), at(10), at(9))
}

fn presences(values: Vec<v1::Presence>, complete: bool, at: v1::Position) -> Response {
    Response::Presences(v1::Presences {
        kind: v1::PresencesKind::Snapshot as i32,
        presences: values,
        snapshot_complete: complete,
        position: Some(at),
    })
}

fn coverage(upn: &str, state: CoverageState) -> Response {
    Response::Coverage(v1::Coverage {
        people: vec![wire::person_coverage(upn, state, at(1))],
    })
}

fn status(cadence: Option<u64>) -> Response {
    Response::TenantStatus(v1::TenantStatus {
        state: v1::TenantState::Connected as i32,
        cadence: cadence.map(|secs| wire::duration(Duration::from_secs(secs))),
        ..v1::TenantStatus::default()
    })
}

fn heartbeat(as_of: i64, sent_at: i64, exceptions: &[(&str, i64)]) -> Response {
    Response::Heartbeat(v1::Heartbeat {
        confirmed_as_of: Some(wire::timestamp(at(as_of))),
        exceptions: exceptions
            .iter()
            .map(|(upn, secs)| v1::ConfirmedException {
                upn: (*upn).into(),
                confirmed_at: Some(wire::timestamp(at(*secs))),
            })
            .collect(),
        position: Some(position(1, 5)),
        sent_at: Some(wire::timestamp(at(sent_at))),
    })
}

fn view(upns: &[&str]) -> View {
    let mut view = View::default();
    view.set_watched(&upns.iter().map(|u| (*u).to_owned()).collect::<Vec<_>>());
    view
}

fn fresh(view: &View, upn: &str, now: i64) -> bool {
    view.is_fresh(view.person(upn).unwrap(), at(now))
}

#[test]
fn a_value_is_stale_until_the_first_heartbeat_and_when_confirmations_stop() {
    let mut v = view(&["Ann@x.com"]);
    v.apply(opened(1, false), at(1000));
    v.apply(
        presences(vec![value("Ann@x.com", "Busy", 1)], true, position(1, 1)),
        at(1000),
    );
    v.apply(status(Some(5)), at(1000));
    assert!(!fresh(&v, "ann@x.com", 1000));
    // The suite's clock is far from the cloud's: only spans count.
    v.apply(heartbeat(20, 22, &[]), at(1000));
    assert!(fresh(&v, "ann@x.com", 1000));
    assert_eq!(
        v.age(v.person("ann@x.com").unwrap(), at(1003)),
        Some(Duration::from_secs(5))
    );
    assert!(fresh(&v, "ann@x.com", 1013));
    assert!(
        !fresh(&v, "ann@x.com", 1014),
        "15 seconds at least, or three cadences"
    );
    v.apply(heartbeat(40, 41, &[]), at(1020));
    assert!(fresh(&v, "ann@x.com", 1020));
    v.apply(status(None), at(1020));
    assert!(!fresh(&v, "ann@x.com", 1020), "nothing is being read");
    v.apply(status(Some(5)), at(1020));
    v.disconnected();
    assert!(!fresh(&v, "ann@x.com", 1020));
}

#[test]
fn who_becomes_stale_or_fresh_is_named() {
    let named = |events: Vec<Event>| -> Vec<(bool, Vec<String>)> {
        let pick = |event| match event {
            Event::Freshness { upns, fresh } => Some((fresh, upns)),
            _ => None,
        };
        events.into_iter().filter_map(pick).collect()
    };
    let [ann, bob] = ["ann@x.com", "bob@x.com"].map(str::to_owned);
    let mut v = view(&[&ann, &bob]);
    v.apply(opened(1, false), at(0));
    v.apply(status(Some(5)), at(0));
    let both = vec![value(&ann, "Busy", 1), value(&bob, "Busy", 2)];
    let events = v.apply(presences(both, true, position(1, 2)), at(0));
    assert!(matches!(
        events[0],
        Event::Presence {
            snapshot: true,
            fresh: false,
            ..
        }
    ));
    let events = v.apply(heartbeat(100, 101, &[(&bob, 60)]), at(1));
    assert_eq!(named(events), [(true, vec![ann.clone()])]);
    assert!(named(v.apply(heartbeat(102, 103, &[(&bob, 60)]), at(3))).is_empty());
    // Microsoft is silent, the cloud goes on saying so.
    let events = v.apply(heartbeat(102, 120, &[(&bob, 115)]), at(20));
    assert_eq!(
        named(events),
        [(false, vec![ann.clone()]), (true, vec![bob.clone()])]
    );
    let events = v.apply(status(None), at(20));
    assert_eq!(named(events), [(false, vec![bob.clone()])]);
    v.disconnected();
    v.apply(opened(1, true), at(21));
    v.apply(status(Some(5)), at(21));
    let events = v.apply(heartbeat(122, 122, &[]), at(22));
    assert_eq!(named(events), [(true, vec![ann, bob])]);
}

#[test]
fn a_cloud_whose_clock_was_put_back_does_not_make_the_old_fresh() {
    let mut v = view(&["ann@x.com"]);
    v.apply(opened(1, false), at(0));
    v.apply(status(Some(5)), at(0));
    let ann = vec![value("ann@x.com", "Busy", 1)];
    v.apply(presences(ann, true, position(1, 1)), at(0));
    v.apply(heartbeat(5000, 5001, &[]), at(1));
    assert!(fresh(&v, "ann@x.com", 1));
    // An hour back, and Microsoft does not answer any more.
    v.apply(heartbeat(5000, 1400, &[]), at(100));
    assert!(!fresh(&v, "ann@x.com", 100));
    v.apply(heartbeat(1405, 1406, &[]), at(106));
    assert!(fresh(&v, "ann@x.com", 106));
    // A value from before the clock was put back is as old as the heartbeats say.
    let mut late = value("ann@x.com", "Away", 2);
    late.confirmed_at = Some(wire::timestamp(at(5010)));
    v.apply(presences(vec![late], false, position(1, 2)), at(107));
    v.apply(heartbeat(1405, 1440, &[]), at(140));
    assert!(!fresh(&v, "ann@x.com", 140));
}

#[test]
fn an_exception_is_as_old_as_stated() {
    let mut v = view(&["ann@x.com", "bob@x.com"]);
    v.apply(opened(1, false), at(0));
    v.apply(status(Some(5)), at(0));
    let both = vec![value("ann@x.com", "Busy", 1), value("bob@x.com", "Busy", 2)];
    v.apply(presences(both, true, position(1, 2)), at(0));
    v.apply(heartbeat(100, 101, &[("bob@x.com", 60)]), at(0));
    assert!(fresh(&v, "ann@x.com", 0) && !fresh(&v, "bob@x.com", 0));
    assert_eq!(
        v.counts(at(0)),
        Counts {
            watched: 2,
            fresh: 1,
            stale: 1,
            ..Counts::default()
        }
    );
}

#[test]
fn a_heartbeat_says_nothing_of_values_that_come_after_it() {
    let mut v = view(&["ann@x.com"]);
    v.apply(opened(1, false), at(0));
    v.apply(status(Some(5)), at(0));
    v.apply(presences(vec![], true, position(1, 0)), at(0));
    v.apply(heartbeat(500, 500, &[]), at(0));
    // Nobody watched her for a while: the cloud has a value of second 10.
    let old = presences(
        vec![value("ann@x.com", "Available", 1)],
        false,
        position(1, 1),
    );
    v.apply(old, at(1));
    assert!(!fresh(&v, "ann@x.com", 1));
    v.apply(heartbeat(502, 502, &[("ann@x.com", 10)]), at(2));
    assert!(!fresh(&v, "ann@x.com", 2));
    v.apply(heartbeat(505, 505, &[]), at(5));
    assert!(fresh(&v, "ann@x.com", 5));
}

#[test]
fn after_a_lost_position_the_old_is_stale_until_the_snapshot_and_gone_after_it() {
    let mut v = view(&["ann@x.com", "bob@x.com"]);
    v.apply(opened(1, false), at(0));
    v.apply(status(Some(5)), at(0));
    let both = vec![value("ann@x.com", "Busy", 7), value("bob@x.com", "Away", 8)];
    v.apply(presences(both, true, position(1, 8)), at(0));
    v.disconnected();
    assert_eq!(v.opening().0.unwrap().sequence, Sequence(8));
    v.apply(opened(2, false), at(1));
    v.apply(heartbeat(10, 10, &[]), at(1));
    assert!(!fresh(&v, "ann@x.com", 1));
    assert_eq!(
        v.opening().1,
        Vec::<String>::new(),
        "what is left over is not held"
    );
    v.apply(
        presences(
            vec![value("ann@x.com", "Available", 1)],
            false,
            position(2, 0),
        ),
        at(1),
    );
    assert_eq!(
        v.person("ann@x.com")
            .unwrap()
            .value
            .as_ref()
            .unwrap()
            .sequence,
        Sequence(1)
    );
    assert!(v.person("bob@x.com").unwrap().value.is_some());
    let events = v.apply(presences(vec![], true, position(2, 1)), at(1));
    assert_eq!(
        events,
        [
            Event::Gone {
                upn: "bob@x.com".into()
            },
            Event::SnapshotComplete
        ]
    );
    assert!(v.person("bob@x.com").unwrap().value.is_none());
}

#[test]
fn resuming_names_who_is_held_and_who_is_not() {
    let mut v = view(&["ann@x.com", "bob@x.com"]);
    assert_eq!(
        v.opening(),
        (None, vec!["ann@x.com".into(), "bob@x.com".into()], vec![])
    );
    v.apply(opened(1, false), at(0));
    v.apply(
        presences(vec![value("ann@x.com", "Busy", 7)], false, position(1, 7)),
        at(0),
    );
    let (resume, held, others) = v.opening();
    assert_eq!(
        resume.unwrap(),
        Position {
            epoch: Epoch(1),
            sequence: Sequence(7)
        }
    );
    assert_eq!(
        (held, others),
        (vec!["ann@x.com".into()], vec!["bob@x.com".into()])
    );
}

#[test]
fn coverage_that_ends_a_value_ends_it_and_is_told_anew_on_each_stream() {
    let mut v = view(&["ann@x.com"]);
    v.apply(opened(1, false), at(0));
    v.apply(
        presences(vec![value("ann@x.com", "Busy", 1)], true, position(1, 1)),
        at(0),
    );
    v.apply(coverage("ANN@x.com", CoverageState::Duplicate), at(0));
    assert!(v.person("ann@x.com").unwrap().coverage.is_none());
    let events = v.apply(coverage("ann@x.com", CoverageState::NotFound), at(0));
    assert_eq!(
        events[0],
        Event::Gone {
            upn: "ann@x.com".into()
        }
    );
    assert_eq!(v.counts(at(0)).uncovered, 1);
    v.apply(opened(1, true), at(1));
    assert!(v.person("ann@x.com").unwrap().coverage.is_none());
}

#[test]
fn changing_the_list_tells_who_is_new_and_who_is_gone() {
    let mut v = view(&["ann@x.com", "bob@x.com"]);
    let (new, gone) = v.set_watched(&["BOB@x.com".into(), "cy@x.com".into()]);
    assert_eq!(
        (new, gone),
        (vec!["cy@x.com".to_owned()], vec!["ann@x.com".to_owned()])
    );
    assert!(
        v.apply(
            presences(vec![value("ann@x.com", "Busy", 1)], false, position(1, 1)),
            at(0)
        )
        .is_empty()
    );
}

/// What happens between a cloud and a suite, one after the other.
#[derive(Debug, Clone)]
enum Step {
    /// Time passes.
    Pass(u8),
    /// Microsoft confirms these people (bits).
    Sweep(u8),
    /// A person's value changes and is sent, or is sent again unchanged.
    Tell {
        who: usize,
        changes: bool,
    },
    Heartbeat,
    Watch(u8),
    Break,
    /// A new stream; false: in a new epoch.
    Open {
        resumed: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0_u8..12).prop_map(Step::Pass),
        (0_u8..16).prop_map(Step::Sweep),
        (0_usize..4, any::<bool>()).prop_map(|(who, changes)| Step::Tell { who, changes }),
        Just(Step::Heartbeat),
        (0_u8..16).prop_map(Step::Watch),
        Just(Step::Break),
        any::<bool>().prop_map(|resumed| Step::Open { resumed }),
    ]
}

proptest! {
    /// A cloud that keeps the contract, a suite whose clock is elsewhere: what is shown as fresh was confirmed lately, and is
    /// what the cloud said last.
    #[test]
    fn what_is_stale_is_never_shown_as_fresh(steps in prop::collection::vec(step(), 0..120)) {
        const NAMES: [&str; 4] = ["a@x.com", "b@x.com", "c@x.com", "d@x.com"];
        const ELSEWHERE: i64 = 1_000_000;
        const LIMIT: i64 = 15;
        let mut v = View::default();
        let (mut now, mut epoch, mut sequence, mut open) = (100_i64, 1, 0_u64, false);
        let mut confirmed = [0_i64; 4];
        // Sequence of the last value sent, on this stream or, where it resumed, an earlier one.
        let mut told: [Option<u64>; 4] = [None; 4];
        let mut watched: u8 = 0;
        for step in steps {
            match step {
                Step::Pass(secs) => now += i64::from(secs),
                Step::Sweep(who) => {
                    for (i, at) in confirmed.iter_mut().enumerate() {
                        if who & (1 << i) != 0 {
                            *at = now;
                        }
                    }
                }
                Step::Tell { who, changes } => {
                    let known = told[who].is_some();
                    if open && watched & (1 << who) != 0 {
                        if changes || !known {
                            sequence += 1;
                            told[who] = Some(sequence);
                        }
                        let presence = Presence::from_microsoft(Some("Busy"), None);
                        let number = Sequence(told[who].unwrap());
                        let message = wire::presence(NAMES[who], &presence, number, at(confirmed[who]), at(1));
                        v.apply(presences(vec![message], false, position(epoch, sequence)), at(now + ELSEWHERE));
                    }
                }
                Step::Heartbeat if open => {
                    let as_of = *confirmed.iter().max().unwrap();
                    let late: Vec<(&str, i64)> = (0..4)
                        .filter(|i| watched & (1 << i) != 0 && confirmed[*i] < as_of)
                        .map(|i| (NAMES[i], confirmed[i]))
                        .collect();
                    v.apply(heartbeat(as_of, now, &late), at(now + ELSEWHERE));
                }
                Step::Heartbeat => {}
                Step::Watch(who) => {
                    let list: Vec<String> =
                        (0..4).filter(|i| who & (1 << i) != 0).map(|i| NAMES[i].to_owned()).collect();
                    v.set_watched(&list);
                    for (i, value) in told.iter_mut().enumerate() {
                        if who & (1 << i) == 0 {
                            *value = None;
                        }
                    }
                    watched = who;
                }
                Step::Break => {
                    v.disconnected();
                    open = false;
                }
                Step::Open { resumed } => {
                    v.disconnected();
                    open = true;
                    if !resumed {
                        (epoch, sequence, told) = (epoch + 1, 0, [None; 4]);
                    }
                    v.apply(opened(epoch, resumed), at(now + ELSEWHERE));
                    v.apply(status(Some(5)), at(now + ELSEWHERE));
                }
            }
            for (i, name) in NAMES.iter().enumerate() {
                let Some(person) = v.person(name) else { continue };
                if v.is_fresh(person, at(now + ELSEWHERE)) {
                    prop_assert!(open, "shown as fresh without a connection");
                    prop_assert!(now - confirmed[i] <= LIMIT, "confirmed {} s ago", now - confirmed[i]);
                    prop_assert_eq!(person.value.as_ref().map(|held| held.sequence.0), told[i]);
                }
            }
        }
    }

    /// Whatever arrives in whatever order, a person's sequence never goes back within an epoch.
    #[test]
    fn sequences_never_go_back(steps in prop::collection::vec((0_u8..3, 0_u64..50, any::<bool>()), 0..100)) {
        let mut v = view(&["a@x.com", "b@x.com", "c@x.com"]);
        v.apply(opened(1, false), at(0));
        let mut highest = [0; 3];
        for (who, sequence, complete) in steps {
            let upn = ["a@x.com", "b@x.com", "c@x.com"][usize::from(who)];
            v.apply(presences(vec![value(upn, "Busy", sequence)], complete, position(1, 0)), at(0));
            let held = v.person(upn).unwrap().value.as_ref().unwrap().sequence.0;
            prop_assert!(held >= highest[usize::from(who)]);
            highest[usize::from(who)] = held;
        }
    }
}
