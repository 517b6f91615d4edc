use super::*;
use crate::model::HealthState as State;

const NOW: i64 = 1_800_000_000;

fn at(before: Duration) -> Timestamp {
    Timestamp::from_secs(NOW).minus(before)
}

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn served(state: State) -> Served {
    Served {
        health: Health {
            state,
            cause: Some(Cause {
                text: "The password was changed.".into(),
                remedy: "Sign in again.".into(),
                code: "AADSTS50173".into(),
                correlation_id: "c-1".into(),
            })
            .filter(|_| state != State::Connected),
            since: at(secs(60)),
        },
        refused: false,
        read_age: Some(secs(3)),
        cadence: Some(secs(5)),
        wanted: secs(5),
        throttled_since: None,
        watched: 100,
        covered: 98,
        resolving: false,
    }
}

fn tenant(n: u128, served: Served) -> TenantFacts {
    TenantFacts {
        id: TenantId(uuid::Uuid::from_u128(n)),
        name: format!("Tenant {n}"),
        refresh: None,
        suites: Vec::new(),
        served: Some(served),
    }
}

fn suite(n: u128, gone: Option<Duration>) -> SuiteFacts {
    SuiteFacts {
        id: SuiteId(uuid::Uuid::from_u128(n)),
        name: format!("Suite {n}"),
        connected: gone.is_none(),
        seen: at(gone.unwrap_or_default()),
        stalled: Duration::ZERO,
    }
}

fn credential(name: &str, ending: Ending) -> CredentialFacts {
    CredentialFacts {
        name: name.into(),
        ending,
        ends: Some(at(Duration::ZERO)),
        refused: false,
    }
}

fn facts(tenants: Vec<TenantFacts>) -> Facts {
    Facts {
        now: at(Duration::ZERO),
        started_at: at(DAY),
        credentials: vec![credential("secret", Ending::Far)],
        tenants,
        undelivered: Vec::new(),
    }
}

fn judged(facts: &Facts) -> Judgement {
    judge(facts, &Limits::default(), &mut Memory::default())
}

/// Kinds and severities of all troubles.
fn told(facts: &Facts) -> Vec<(Kind, Severity)> {
    let judged = judged(facts);
    let troubles = judged.troubles.iter();
    troubles.map(|(key, t)| (key.kind, t.severity)).collect()
}

#[test]
fn nothing_is_told_when_all_is_well() {
    let mut well = facts(vec![tenant(1, served(State::Connected))]);
    well.tenants[0].suites.push(suite(1, None));
    let judged = judged(&well);
    assert!(judged.troubles.is_empty(), "{judged:?}");
    assert!(judged.unknown.is_empty(), "{judged:?}");
}

#[test]
fn words_lead_back_to_what_they_stand_for() {
    for kind in Kind::ALL {
        assert_eq!(Kind::from_word(kind.as_str()), Some(*kind));
    }
    for (word, severity) in Severity::WORDS {
        assert_eq!(severity.as_str(), word);
        assert_eq!(Severity::from_word(word), Some(severity));
    }
}

#[test]
fn a_refused_connection_is_told_before_it_is_lost_and_again_when_it_is() {
    let one = |state, refused| {
        let mut of = served(state);
        of.refused = refused;
        told(&facts(vec![tenant(1, of)]))
    };
    assert_eq!(
        one(State::Degraded, true),
        [(Kind::ConnectionLost, Severity::Warning)]
    );
    for state in [State::NeedsAdministrator, State::NeedsReauthorization] {
        assert_eq!(
            one(state, true),
            [(Kind::ConnectionLost, Severity::Critical)]
        );
    }
    assert!(one(State::Degraded, false).is_empty());
    let lost = facts(vec![tenant(1, served(State::NeedsReauthorization))]);
    let judged = judged(&lost);
    let trouble = judged.troubles.values().next().unwrap();
    assert!(trouble.cause.contains("password was changed"));
    assert!(trouble.cause.contains("AADSTS50173") && trouble.cause.contains("c-1"));
    assert!(trouble.cure.contains("Sign in again"));
}

#[test]
fn degraded_is_not_the_end_of_a_lost_connection() {
    for state in [State::Pending, State::Degraded] {
        let judged = judged(&facts(vec![tenant(1, served(state))]));
        let id = TenantId(uuid::Uuid::from_u128(1));
        assert!(judged.unknown.contains(&(Kind::ConnectionLost, Some(id))));
    }
}

#[test]
fn silence_of_one_tenant_is_told_and_grows() {
    let silent = |age| {
        let mut of = served(State::Degraded);
        of.read_age = Some(age);
        let well = served(State::Connected);
        told(&facts(vec![tenant(1, of), tenant(2, well)]))
    };
    assert!(silent(secs(59)).is_empty());
    assert_eq!(silent(secs(60)), [(Kind::NoReading, Severity::Warning)]);
    assert_eq!(silent(secs(300)), [(Kind::NoReading, Severity::Critical)]);
}

#[test]
fn silence_that_something_else_explains_is_not_told_twice() {
    let mut of = served(State::NeedsAdministrator);
    of.read_age = Some(DAY);
    let told_of = told(&facts(vec![tenant(1, of)]));
    assert_eq!(told_of, [(Kind::ConnectionLost, Severity::Critical)]);
    let mut of = served(State::Degraded);
    of.read_age = Some(secs(700));
    of.throttled_since = Some(at(secs(700)));
    let told_of = told(&facts(vec![tenant(1, of)]));
    assert_eq!(told_of, [(Kind::Throttled, Severity::Warning)]);
}

#[test]
fn what_all_tenants_have_in_common_is_told_once() {
    let silent = |age| {
        let mut of = served(State::Degraded);
        of.read_age = Some(age);
        of
    };
    let many = |ages: &[u64]| {
        let tenants = ages.iter().enumerate();
        let tenants = tenants.map(|(n, age)| tenant(n as u128, silent(secs(*age))));
        facts(tenants.collect())
    };
    let all = many(&[90; 10]);
    assert_eq!(told(&all), [(Kind::MicrosoftAway, Severity::Critical)]);
    let judgement = judged(&all);
    assert!(
        judgement
            .unknown
            .contains(&(Kind::NoReading, Some(all.tenants[0].id)))
    );
    // The first of them is silent a little earlier than the others: that is not told of it alone.
    let judgement = judged(&many(&[61, 50, 50, 50, 50]));
    assert!(judgement.troubles.is_empty(), "{judgement:?}");
    // When they come back one by one, the last ones are told each.
    let back = told(&many(&[90, 2, 2, 2, 2]));
    assert_eq!(back, [(Kind::NoReading, Severity::Warning)]);
    // Few tenants are told each.
    assert_eq!(told(&many(&[90, 90])).len(), 2);
}

#[test]
fn nobody_is_read_because_of_us_is_told_as_ours() {
    let mut of = served(State::Degraded);
    of.read_age = Some(DAY);
    let tenants = (0..5).map(|n| tenant(n, of.clone()));
    let mut ours = facts(tenants.collect());
    ours.credentials[0].refused = true;
    assert_eq!(told(&ours), [(Kind::CredentialRefused, Severity::Critical)]);
    ours.credentials[0].ending = Ending::Ended;
    assert_eq!(told(&ours), [(Kind::CredentialEnded, Severity::Critical)]);
}

#[test]
fn the_end_of_a_credential_is_told_three_times_and_when_it_has_come() {
    let one = |ending| {
        let mut facts = facts(Vec::new());
        facts.credentials[0].ending = ending;
        told(&facts)
    };
    assert!(one(Ending::Far).is_empty());
    let ends = |severity| vec![(Kind::CredentialEnds, severity)];
    assert_eq!(one(Ending::Soon), ends(Severity::Notice));
    assert_eq!(one(Ending::VerySoon), ends(Severity::Warning));
    assert_eq!(one(Ending::Now), ends(Severity::Critical));
    assert_eq!(
        one(Ending::Ended),
        [(Kind::CredentialEnded, Severity::Critical)]
    );
}

#[test]
fn the_end_of_a_credential_that_is_replaced_already_hurts_nobody() {
    let mut both = facts(Vec::new());
    both.credentials[0].ending = Ending::Now;
    both.credentials.push(credential("next", Ending::Far));
    assert_eq!(told(&both), [(Kind::CredentialEnds, Severity::Notice)]);
    both.credentials[0].ending = Ending::Far;
    both.credentials[0].refused = true;
    assert_eq!(told(&both), [(Kind::CredentialRefused, Severity::Warning)]);
}

#[test]
fn a_refresh_token_that_is_not_renewed_is_told_in_time() {
    let idle = |days: u32, interrupted| {
        let mut facts = facts(vec![tenant(1, served(State::Connected))]);
        facts.tenants[0].refresh = Some(RefreshFacts {
            stored_at: at(DAY * days),
            interrupted,
        });
        told(&facts)
    };
    assert!(idle(29, 2).is_empty());
    assert_eq!(idle(30, 0), [(Kind::TokenIdle, Severity::Notice)]);
    assert_eq!(idle(60, 0), [(Kind::TokenIdle, Severity::Warning)]);
    assert_eq!(idle(80, 0), [(Kind::TokenIdle, Severity::Critical)]);
    assert_eq!(idle(0, 3), [(Kind::RenewalsInterrupted, Severity::Warning)]);
}

#[test]
fn a_drop_of_the_coverage_is_told_and_wrong_names_from_the_start_are_not() {
    let mut memory = Memory::default();
    let mut judge_share = |covered, resolving| {
        let mut of = served(State::Connected);
        (of.covered, of.resolving) = (covered, resolving);
        let judged = judge(&facts(vec![tenant(1, of)]), &Limits::default(), &mut memory);
        (judged.troubles.len(), judged.unknown.len())
    };
    assert_eq!(judge_share(60, true), (0, 1));
    assert_eq!(judge_share(60, false), (0, 0));
    assert_eq!(judge_share(98, false), (0, 0));
    assert_eq!(judge_share(89, false), (0, 0));
    assert_eq!(judge_share(88, false), (1, 0));
    assert_eq!(judge_share(95, false), (0, 0));
}

#[test]
fn few_people_are_no_drop() {
    let mut memory = Memory::default();
    for (covered, watched, troubles) in [(10, 10, 0), (8, 10, 0), (7, 10, 1)] {
        let mut of = served(State::Connected);
        (of.covered, of.watched) = (covered, watched);
        let facts = facts(vec![tenant(1, of)]);
        let judged = judge(&facts, &Limits::default(), &mut memory);
        assert_eq!(judged.troubles.len(), troubles, "{covered} of {watched}");
    }
}

#[test]
fn a_suite_that_is_gone_is_told_alone_and_many_at_once() {
    let with = |gone: &[Option<u64>]| {
        let mut facts = facts(vec![tenant(1, served(State::Connected))]);
        let suites = gone.iter().enumerate();
        facts.tenants[0].suites = suites
            .map(|(n, gone)| {
                suite(
                    n as u128,
                    gone.map(|m| MINUTE.saturating_mul(u32::try_from(m).unwrap())),
                )
            })
            .collect();
        facts
    };
    assert!(told(&with(&[Some(14), None])).is_empty());
    assert_eq!(
        told(&with(&[Some(15), None])),
        [(Kind::SuiteGone, Severity::Warning)]
    );
    assert_eq!(
        told(&with(&[Some(240), None])),
        [(Kind::SuiteGone, Severity::Critical)]
    );
    assert_eq!(
        told(&with(&[Some(16); 5])),
        [(Kind::SuitesGone, Severity::Critical)]
    );
    // After a restart suites need a moment to come back.
    let mut restarted = with(&[Some(60), None]);
    restarted.started_at = at(MINUTE);
    let judgement = judged(&restarted);
    assert!(judgement.troubles.is_empty());
    let id = restarted.tenants[0].id;
    assert!(judgement.unknown.contains(&(Kind::SuiteGone, Some(id))));
}

#[test]
fn a_suite_that_takes_nothing_is_told() {
    let mut slow = facts(vec![tenant(1, served(State::Connected))]);
    slow.tenants[0].suites.push(suite(1, None));
    slow.tenants[0].suites[0].stalled = secs(20);
    assert_eq!(told(&slow), [(Kind::SuiteSlow, Severity::Warning)]);
}

#[test]
fn a_small_budget_is_told_as_such() {
    let mut of = served(State::Connected);
    of.cadence = Some(secs(10));
    let stretched = facts(vec![tenant(1, of)]);
    assert_eq!(
        told(&stretched),
        [(Kind::CadenceStretched, Severity::Notice)]
    );
    let judgement = judged(&stretched);
    let cause = &judgement.troubles.values().next().unwrap().cause;
    assert!(cause.starts_with("At least every 5 s is wanted"), "{cause}");
}

#[test]
fn of_a_tenant_that_is_not_served_yet_nothing_is_known() {
    let mut facts = facts(vec![tenant(1, served(State::Connected))]);
    facts.tenants[0].served = None;
    let judged = judged(&facts);
    assert!(judged.troubles.is_empty());
    assert_eq!(judged.unknown.len(), 5);
}

#[test]
fn a_receiver_that_is_not_reached_is_told_to_the_others() {
    let mut facts = facts(Vec::new());
    facts.undelivered.push(Waiting {
        receiver: "on call".into(),
        since: at(MINUTE),
        problem: "it answers 500".into(),
    });
    assert_eq!(
        told(&facts),
        [(Kind::MessagesUndelivered, Severity::Warning)]
    );
}

#[test]
fn the_end_of_what_all_had_in_common_is_not_the_beginning_of_many() {
    let mut of = served(State::Degraded);
    of.read_age = Some(DAY);
    let tenants: Vec<_> = (0..5).map(|n| tenant(n, of.clone())).collect();
    let mut facts = facts(tenants);
    let mut memory = Memory::default();
    let mut kinds = |facts: &Facts| -> Vec<Kind> {
        let judged = judge(facts, &Limits::default(), &mut memory);
        judged.troubles.keys().map(|key| key.kind).collect()
    };
    facts.credentials[0].refused = true;
    assert_eq!(kinds(&facts), [Kind::CredentialRefused]);
    // It is corrected; tenants come back one by one.
    facts.credentials[0].refused = false;
    assert!(kinds(&facts).is_empty());
    for n in 1..5 {
        facts.tenants[n].served = Some(served(State::Connected));
        assert!(kinds(&facts).is_empty());
    }
    facts.now = facts.now.plus(BACK_AFTER_OURS);
    assert_eq!(kinds(&facts), [Kind::NoReading]);
}

#[test]
fn suites_that_were_cut_off_together_may_come_back_one_by_one() {
    let mut facts = facts(vec![tenant(1, served(State::Connected))]);
    let gone = Some(MINUTE * 16);
    facts.tenants[0].suites = (0..10).map(|n| suite(n, gone)).collect();
    let mut memory = Memory::default();
    let mut kinds = |facts: &Facts| -> Vec<Kind> {
        let judged = judge(facts, &Limits::default(), &mut memory);
        judged.troubles.keys().map(|key| key.kind).collect()
    };
    assert_eq!(kinds(&facts), [Kind::SuitesGone]);
    for n in 0..9 {
        facts.tenants[0].suites[n] = suite(n as u128, None);
        assert!(!kinds(&facts).contains(&Kind::SuiteGone));
    }
    facts.now = facts.now.plus(MINUTE * 16);
    assert_eq!(kinds(&facts), [Kind::SuiteGone]);
}

#[test]
fn a_restart_is_not_the_end_of_silence() {
    let restarted = |state, age| {
        let mut of = served(state);
        of.read_age = age;
        let tenants = (0..5).map(|n| tenant(n, of.clone()));
        let judged = judged(&facts(tenants.collect()));
        assert!(judged.troubles.is_empty(), "{judged:?}");
        let id = Some(TenantId(uuid::Uuid::from_u128(1)));
        (
            judged.unknown.contains(&(Kind::NoReading, id)),
            judged.unknown.contains(&(Kind::MicrosoftAway, None)),
        )
    };
    for state in [State::Pending, State::Degraded] {
        assert_eq!(restarted(state, Some(secs(5))), (true, true));
    }
    assert_eq!(restarted(State::Connected, Some(secs(5))), (false, false));
    // Nobody is watched any more.
    assert_eq!(restarted(State::Pending, None), (false, false));
}

#[test]
fn silence_goes_on_while_microsoft_slows_us_down() {
    let mut of = served(State::Degraded);
    of.read_age = Some(secs(700));
    of.throttled_since = Some(at(secs(5)));
    let slowed = facts(vec![tenant(1, of), tenant(2, served(State::Connected))]);
    let id = Some(slowed.tenants[0].id);
    let judged = judged(&slowed);
    assert!(judged.troubles.is_empty(), "{judged:?}");
    for kind in [Kind::NoReading, Kind::Throttled] {
        assert!(judged.unknown.contains(&(kind, id)), "{kind:?}");
    }
}

#[test]
fn what_is_covered_for_a_day_is_the_usual() {
    let mut memory = Memory::default();
    let mut of = served(State::Connected);
    let id = tenant(1, of.clone()).id;
    // As after a restart: what was usual is not known any more.
    memory.baselines.insert(id, Usual::of(1.0));
    let mut troubles = |covered, now: Timestamp| {
        of.covered = covered;
        let mut facts = facts(vec![tenant(1, of.clone())]);
        facts.now = now;
        judge(&facts, &Limits::default(), &mut memory)
            .troubles
            .len()
    };
    let begun = at(secs(0));
    assert_eq!(troubles(50, begun), 1);
    assert_eq!(troubles(50, begun.plus(secs(86_399))), 1);
    assert_eq!(troubles(50, begun.plus(DAY)), 0);
    assert_eq!(troubles(30, begun.plus(DAY)), 1, "and a new drop is one");
    assert_eq!(troubles(60, begun.plus(DAY)), 0);
}

#[test]
fn suites_out_of_use_do_not_hide_one_that_goes() {
    let gone = |minutes: u32| Some(MINUTE.saturating_mul(minutes));
    let mut facts = facts(vec![tenant(1, served(State::Connected))]);
    let months = gone(60 * 24 * 60);
    facts.tenants[0].suites = (0..4).map(|n| suite(n, months)).collect();
    facts.tenants[0].suites.push(suite(9, gone(16)));
    let suites = told(&facts);
    assert_eq!(suites.len(), 5, "{suites:?}");
    assert!(suites.iter().all(|(kind, _)| *kind == Kind::SuiteGone));
}
