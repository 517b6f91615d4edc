use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone, Copy)]
enum Event {
    Pass(u64),
    Failed(u64),
    Succeeded,
    TryNow,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0_u64..400).prop_map(Event::Pass),
        3 => (0_u64..300).prop_map(Event::Failed),
        1 => Just(Event::Succeeded),
        1 => Just(Event::TryNow),
    ]
}

/// What the whole history says: nothing but failures since the last answer counts, and of these the longest pause; somebody who
/// wants it tried ends those from before.
fn by_history(history: &[(u64, Event)], now: u64) -> (BreakerState, Option<u64>) {
    let since_answer = history
        .iter()
        .rposition(|(_, event)| matches!(event, Event::Succeeded))
        .map_or(0, |at| at + 1);
    let history = &history[since_answer..];
    let failures = |history: &[(u64, Event)]| -> Vec<u64> {
        let until = |(at, event): &(u64, Event)| match event {
            Event::Failed(pause) => Some(at + pause),
            _ => None,
        };
        history.iter().filter_map(until).collect()
    };
    if failures(history).is_empty() {
        return (BreakerState::Closed, None);
    }
    let since_try = history
        .iter()
        .rposition(|(_, event)| matches!(event, Event::TryNow))
        .map_or(0, |at| at + 1);
    let longest = failures(&history[since_try..]).into_iter().max();
    match longest.filter(|until| now < *until) {
        Some(until) => (BreakerState::Open, Some(until)),
        None => (BreakerState::HalfOpen, None),
    }
}

proptest! {
    #[test]
    fn a_breaker_stands_where_its_history_puts_it(events in prop::collection::vec(event(), 0..60)) {
        let (mut breaker, mut now, mut history) = (Breaker::default(), 0_u64, Vec::new());
        for event in events {
            match event {
                Event::Pass(time) => now += time,
                Event::Failed(pause) => breaker.failed(now + pause),
                Event::Succeeded => breaker.succeeded(),
                Event::TryNow => breaker.try_now(now),
            }
            history.push((now, event));
            let (state, until) = by_history(&history, now);
            prop_assert_eq!(breaker.state(now), state);
            prop_assert_eq!(breaker.open_until(now), until);
            let most = match state {
                BreakerState::Closed => 4,
                BreakerState::HalfOpen => 1,
                BreakerState::Open => 0,
            };
            prop_assert_eq!(breaker.at_once(now, 4), most);
            prop_assert_eq!(breaker.at_once(now, 0), 0);
        }
    }

    /// Who obeys asks a service that is down for so long not more often than its pauses allow, one call at a time, and finds out
    /// that it is back within the longest pause.
    #[test]
    fn who_obeys_does_not_hammer_and_is_back_in_time(seed in any::<u64>(), down in 60_000_u64..90_000_000, took in 1_u64..30_000) {
        let (mut breaker, mut pauses) = (Breaker::default(), Pauses::new(seed));
        let (mut now, mut calls, mut last_hour) = (0_u64, 0_u32, Vec::new());
        let mut opened = 0;
        loop {
            now = breaker.open_until(now).unwrap_or(now);
            let at_once = breaker.at_once(now, 4);
            prop_assert_eq!(at_once, if calls == 0 { 4 } else { 1 });
            calls += 1;
            last_hour.push(now);
            let answered = now >= down;
            if answered {
                breaker.succeeded();
                pauses.succeeded();
                break;
            }
            now += took;
            opened = now;
            let pause = pauses.after_failure(None);
            prop_assert!(pause <= LONGEST_PAUSE);
            breaker.failed(now + u64::try_from(pause.as_millis()).unwrap());
        }
        prop_assert!(now <= opened + 300_000);
        prop_assert!(opened <= down + took);
        prop_assert_eq!(breaker.at_once(now, 4), 4);
        // Down for an hour or more: 20 quick tries, and then one every two and a half minutes in the mean.
        let most = 40.0 + 2.0 * f64::from(u32::try_from(down).unwrap()) / 150_000.0;
        prop_assert!(f64::from(calls) <= most, "{} calls", calls);
    }

    #[test]
    fn never_earlier_than_told_nor_for_ever(seed in any::<u64>(), told in prop::collection::vec(prop::option::of(0_u64..9_000), 1..60)) {
        let mut pauses = Pauses::new(seed);
        for secs in told {
            let told = secs.map(Duration::from_secs);
            let hour = Duration::from_hours(1);
            let least = told.unwrap_or_default().min(hour);
            let failure = pauses.after_failure(told);
            prop_assert!(failure >= least && failure <= hour);
            let throttled = pauses.after_throttling(told);
            prop_assert!(throttled >= least && throttled <= hour.mul_f64(1.1));
            if told.is_none() {
                prop_assert!(throttled >= Duration::from_mins(1));
            }
        }
    }
}

/// Those who failed together come back one by one: of three hundred in pauses as long as they get, not one tenth in any ten seconds.
#[test]
fn who_failed_together_does_not_come_back_together() {
    let mut again: Vec<u64> = (0..300)
        .map(|seed| {
            let mut pauses = Pauses::new(seed);
            for _ in 0..40 {
                pauses.after_failure(None);
            }
            pauses.after_failure(None).as_secs()
        })
        .collect();
    again.sort_unstable();
    let most = again
        .chunk_by(|a, b| a / 10 == b / 10)
        .map(<[u64]>::len)
        .max();
    assert!(most.unwrap() < 30, "{again:?}");
    let mut throttled: Vec<u128> = (0..300)
        .map(|seed| Pauses::new(seed).after_throttling(None).as_millis())
        .collect();
    throttled.sort_unstable();
    throttled.dedup();
    assert!(throttled.len() > 250, "{} different", throttled.len());
}
