use proptest::prelude::*;

use super::*;

fn user(n: u8) -> UserId {
    UserId(uuid::Uuid::from_u128(u128::from(n)))
}

fn at(secs: i64) -> Timestamp {
    Timestamp::from_secs(secs)
}

fn saying(text: &str) -> Presence {
    Presence::from_microsoft(Some(text), None)
}

fn watching(users: impl IntoIterator<Item = u8>) -> TenantState {
    let mut state = TenantState::new(Epoch(1));
    for n in users {
        state.watch(user(n));
    }
    state
}

#[test]
fn only_what_changed_gets_a_sequence() {
    let mut state = watching([1, 2]);
    let busy = || ById::from_iter([(user(1), saying("Busy")), (user(2), saying("Away"))]);
    assert_eq!(
        state
            .apply(&[user(1), user(2)], busy(), at(1))
            .changes
            .len(),
        2
    );
    assert!(
        state
            .apply(&[user(1), user(2)], busy(), at(2))
            .changes
            .is_empty()
    );
    let applied = state.apply(
        &[user(1)],
        ById::from_iter([(user(1), saying("Away"))]),
        at(3),
    );
    assert_eq!(applied.changes[0].sequence, Sequence(3));
    let (value, confirmed) = state.value(user(2)).unwrap();
    assert_eq!((value.changed_at, confirmed), (at(1), at(2)));
}

#[test]
fn a_person_missing_from_answers_becomes_unknown_and_is_looked_up_again_never_offline() {
    let mut state = watching([1]);
    state.apply(
        &[user(1)],
        ById::from_iter([(user(1), saying("Busy"))]),
        at(1),
    );
    for second in 2..4 {
        assert!(
            state
                .apply(&[user(1)], ById::default(), at(second))
                .changes
                .is_empty()
        );
        assert_eq!(
            state.value(user(1)).unwrap().1,
            at(1),
            "not confirmed by an answer without the person"
        );
    }
    let applied = state.apply(&[user(1)], ById::default(), at(4));
    assert!(applied.changes[0].presence.is_unknown());
    assert_eq!(applied.coverage, [user(1)]);
    assert_eq!(state.coverage(user(1)), CoverageState::PresenceUnknown);
    let rechecks: usize = (5..20)
        .map(|s| {
            state
                .apply(&[user(1)], ById::default(), at(s))
                .recheck
                .len()
        })
        .sum();
    assert_eq!(rechecks, 1);
    let back = state.apply(
        &[user(1)],
        ById::from_iter([(user(1), saying("Busy"))]),
        at(20),
    );
    assert_eq!(back.coverage, [user(1)]);
    assert_eq!(state.coverage(user(1)), CoverageState::Monitored);
}

#[test]
fn a_refused_person_is_left_out_longer_each_time_and_comes_back() {
    let mut state = watching([1]);
    assert!(state.quarantine(user(1), at(0)));
    assert_eq!(state.coverage(user(1)), CoverageState::Quarantined);
    assert!(state.to_read(at(59), false).is_empty());
    assert_eq!(state.to_read(at(60), false), [user(1)]);
    assert!(!state.quarantine(user(1), at(60)), "no news");
    assert!(state.to_read(at(60 + 119), false).is_empty());
    let applied = state.apply(
        &[user(1)],
        ById::from_iter([(user(1), saying("Busy"))]),
        at(180),
    );
    assert_eq!(applied.coverage, [user(1)]);
    assert_eq!(state.coverage(user(1)), CoverageState::Monitored);
}

#[test]
fn freshness_names_exactly_those_who_lag() {
    let mut state = watching([1, 2, 3]);
    let all = [user(1), user(2), user(3)];
    let answer: ById<_, _> = all.iter().map(|u| (*u, saying("Busy"))).collect();
    state.apply(&all, answer.clone(), at(10));
    state.finish_sweep(at(10));
    assert_eq!((state.as_of(), state.lagging().count()), (Some(at(10)), 0));
    state.apply(&all[..2], answer.clone(), at(20));
    state.finish_sweep(at(20));
    assert_eq!(state.as_of(), Some(at(20)));
    assert_eq!(state.lagging().collect::<Vec<_>>(), [(user(3), at(10))]);
    state.apply(&all[2..], answer, at(21));
    assert_eq!(state.lagging().count(), 0);
}

#[test]
fn somebody_watched_again_lags_until_read_and_is_forgotten_after_a_while() {
    let mut state = watching([1, 2]);
    let answer = |n| ById::from_iter([(user(n), saying("Busy"))]);
    state.apply(&[user(1)], answer(1), at(10));
    state.finish_sweep(at(10));
    state.unwatch(user(1), at(11));
    state.apply(&[user(2)], answer(2), at(20));
    state.finish_sweep(at(20));
    assert_eq!(
        state.lagging().count(),
        0,
        "nobody watches the one who lags"
    );
    state.watch(user(1));
    assert_eq!(state.lagging().collect::<Vec<_>>(), [(user(1), at(10))]);
    state.unwatch(user(1), at(30));
    state.forget(at(89), Duration::from_mins(1));
    assert!(state.value(user(1)).is_some());
    state.forget(at(90), Duration::from_mins(1));
    assert!(state.value(user(1)).is_none());
    assert!(state.value(user(2)).is_some());
}

#[test]
fn a_clock_that_was_put_back_does_not_make_the_old_pass_for_fresh() {
    let mut state = watching([1, 2]);
    let both = [user(1), user(2)];
    let answer: ById<_, _> = both.iter().map(|u| (*u, saying("Busy"))).collect();
    state.apply(&both, answer.clone(), at(5_000));
    state.finish_sweep(at(5_000));
    state.apply(&both[..1], answer, at(1_000));
    state.finish_sweep(at(1_000));
    assert_eq!(state.as_of(), Some(at(1_000)));
    assert_eq!(state.value(user(1)).unwrap().1, at(1_000));
}

#[test]
fn a_person_under_a_new_name_gets_a_sequence_above_all_before() {
    let mut state = watching([1, 2]);
    for n in [1, 2] {
        let answer = ById::from_iter([(user(n), saying("Busy"))]);
        state.apply(&[user(n)], answer, at(1));
    }
    assert!(state.restamp(user(1)));
    let (value, confirmed_at) = state.value(user(1)).unwrap();
    assert_eq!((value.sequence, confirmed_at), (Sequence(3), at(1)));
    assert_eq!(state.value(user(1)).unwrap().0.sequence, Sequence(3));
    assert_eq!(state.position().sequence, Sequence(3));
    assert!(!state.restamp(user(9)));
}

proptest! {
    /// Whatever is read in whatever order: sequences rise strictly, and a reader who applies changes holds the state.
    #[test]
    fn changes_replayed_give_the_state(readings in prop::collection::vec((0_u8..6, 0_usize..5), 0..200)) {
        let words = ["Available", "Busy", "Away", "Hibernating", "PresenceUnknown"];
        let mut state = watching(0..6);
        let mut held: ById<UserId, Value> = ById::default();
        let mut last = Sequence::default();
        for (step, (n, word)) in readings.into_iter().enumerate() {
            let answer = ById::from_iter([(user(n), saying(words[word]))]);
            for change in state.apply(&[user(n)], answer, at(i64::try_from(step).unwrap())).changes {
                prop_assert!(change.sequence > last);
                last = change.sequence;
                held.insert(change.user, change);
            }
        }
        prop_assert_eq!(state.position().sequence, last);
        for n in 0..6 {
            prop_assert_eq!(state.value(user(n)).map(|(v, _)| v), held.get(&user(n)).cloned());
        }
    }
}
