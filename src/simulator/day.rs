//! A person's working day, as a pure function of a seed and the time. The local time of everybody is UTC.

use crate::model::Timestamp;

/// What a person shows, by living the day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Microsoft's text.
    pub availability: &'static str,
    /// Microsoft's text.
    pub activity: &'static str,
    /// Out of office today.
    pub out_of_office: bool,
    /// `office` or `remote`; `timeOff` on a day off.
    pub work_location: &'static str,
    /// Since when.
    pub since: Timestamp,
}

type State = (&'static str, &'static str);

const DAY: i64 = 86_400;
const MINUTE: i64 = 60;

const OFFLINE: State = ("Offline", "Offline");
const OFF_WORK: State = ("Offline", "OffWork");
const AVAILABLE: State = ("Available", "Available");
const AWAY: State = ("Away", "Away");
const IDLE: State = ("AvailableIdle", "Available");
const BUSY_IDLE: State = ("BusyIdle", "Busy");
const BUSY: State = ("Busy", "Busy");
const MEETING: State = ("Busy", "InAMeeting");
const CALL: State = ("Busy", "InACall");
const CONFERENCE: State = ("Busy", "InAConferenceCall");
const PRESENTING: State = ("DoNotDisturb", "Presenting");
const FOCUSING: State = ("DoNotDisturb", "Focusing");
const DO_NOT_DISTURB: State = ("DoNotDisturb", "DoNotDisturb");
const RIGHT_BACK: State = ("BeRightBack", "BeRightBack");

/// What the person with this seed shows at this time.
pub fn moment(seed: u64, at: Timestamp) -> Moment {
    let secs = at.as_secs();
    let (day, now) = (secs.div_euclid(DAY), secs.rem_euclid(DAY));
    let plan = plan(seed, day);
    let (start, (availability, activity)) = plan
        .steps
        .iter()
        .rev()
        .find(|(start, _)| *start <= now)
        .copied()
        .unwrap_or((0, OFFLINE));
    Moment {
        availability,
        activity,
        out_of_office: plan.out_of_office,
        work_location: plan.work_location,
        since: Timestamp::from_secs(day * DAY + start),
    }
}

/// 0 is Sunday. 1970-01-01 was a Thursday.
const fn weekday(day: i64) -> i64 {
    (day + 4).rem_euclid(7)
}

struct Plan {
    /// From which second of the day on, rising.
    steps: Vec<(i64, State)>,
    out_of_office: bool,
    work_location: &'static str,
}

fn plan(seed: u64, day: i64) -> Plan {
    let week = fastrand::Rng::with_seed(mix(seed, day.div_euclid(7), 1)).u32(..100);
    let mut rng = fastrand::Rng::with_seed(mix(seed, day, 2));
    let away_from_work = week < 4 || rng.u32(..100) < 2;
    let weekend = matches!(weekday(day), 0 | 6);
    if away_from_work || (weekend && rng.u32(..100) < 92) {
        return Plan {
            steps: vec![(0, OFFLINE)],
            out_of_office: away_from_work,
            work_location: if away_from_work {
                "timeOff"
            } else {
                "unspecified"
            },
        };
    }
    let mut steps = vec![(0, OFFLINE)];
    let (arrives, lunch, leaves) = if weekend {
        let start = minutes(&mut rng, 10 * 60, 15 * 60);
        (start, DAY, start + minutes(&mut rng, 20, 90))
    } else {
        (
            minutes(&mut rng, 7 * 60 + 15, 9 * 60 + 30),
            minutes(&mut rng, 11 * 60 + 45, 13 * 60),
            minutes(&mut rng, 16 * 60, 18 * 60 + 30),
        )
    };
    let lunch_ends = lunch + minutes(&mut rng, 25, 60);
    let mut now = arrives;
    steps.push((now, AVAILABLE));
    now += minutes(&mut rng, 2, 20);
    while now < leaves {
        if now >= lunch && now < lunch_ends {
            if rng.bool() {
                steps.push((now, RIGHT_BACK));
                now += minutes(&mut rng, 3, 8);
            }
            steps.push((now, AWAY));
            now = now.max(lunch_ends);
            steps.push((now, AVAILABLE));
            now += minutes(&mut rng, 2, 15);
            continue;
        }
        now = block(&mut rng, now, &mut steps);
    }
    leave(&mut rng, now, &mut steps);
    Plan {
        steps,
        out_of_office: false,
        work_location: if rng.u32(..100) < 60 {
            "office"
        } else {
            "remote"
        },
    }
}

/// One thing a person does between two others; returns when it is over.
fn block(rng: &mut fastrand::Rng, mut now: i64, steps: &mut Vec<(i64, State)>) -> i64 {
    match rng.u32(..100) {
        0..30 => {
            steps.push((now, AVAILABLE));
            now + minutes(rng, 8, 45)
        }
        30..52 => {
            steps.push((now, MEETING));
            let length = if rng.bool() { 30 } else { 60 } * MINUTE;
            if rng.u32(..100) < 30 {
                steps.push((now + length / 6, PRESENTING));
                steps.push((now + length * 2 / 3, MEETING));
            }
            steps.push((now + length, AVAILABLE));
            now + length + minutes(rng, 1, 10)
        }
        52..68 => {
            let kind = if rng.u32(..100) < 25 {
                CONFERENCE
            } else {
                CALL
            };
            steps.push((now, kind));
            now += minutes(rng, 1, 18);
            steps.push((now, AVAILABLE));
            now + minutes(rng, 2, 15)
        }
        68..76 => {
            steps.push((now, FOCUSING));
            now + minutes(rng, 25, 90)
        }
        76..79 => {
            steps.push((now, DO_NOT_DISTURB));
            now + minutes(rng, 10, 40)
        }
        79..84 => {
            steps.push((now, BUSY));
            now + minutes(rng, 10, 40)
        }
        84..91 => {
            steps.push((now, RIGHT_BACK));
            now + minutes(rng, 3, 12)
        }
        _ => {
            // Steps away from the desk: idle first, then away.
            steps.push((now, IDLE));
            now += minutes(rng, 4, 6);
            steps.push((now, AWAY));
            now += minutes(rng, 5, 25);
            steps.push((now, AVAILABLE));
            now + minutes(rng, 2, 10)
        }
    }
}

/// The client is switched off: the last state stays a while, goes idle, then offline. Some sign out properly.
fn leave(rng: &mut fastrand::Rng, mut now: i64, steps: &mut Vec<(i64, State)>) {
    match rng.u32(..100) {
        0..15 => steps.push((now, OFF_WORK)),
        15..40 => steps.push((now, OFFLINE)),
        _ => {
            let last = steps.last().map_or(AVAILABLE, |(_, state)| *state);
            now += minutes(rng, 2, 6);
            steps.push((
                now,
                match last.0 {
                    "Busy" => BUSY_IDLE,
                    "Available" => IDLE,
                    _ => AWAY,
                },
            ));
            now += minutes(rng, 4, 8);
            steps.push((now, OFFLINE));
        }
    }
}

/// A random number of minutes in seconds, not on the full minute, so that people do not move in step.
fn minutes(rng: &mut fastrand::Rng, from: i64, to: i64) -> i64 {
    rng.i64(from * MINUTE..=to * MINUTE)
}

fn mix(seed: u64, day: i64, purpose: u64) -> u64 {
    let mut x = seed ^ day.cast_unsigned().wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (purpose << 56);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// 2026-11-24 is a Tuesday.
    const TUESDAY: i64 = 1_795_478_400;

    fn at(seed: u64, hour: i64, minute: i64) -> Moment {
        moment(
            seed,
            Timestamp::from_secs(TUESDAY + hour * 3_600 + minute * 60),
        )
    }

    #[test]
    fn the_same_seed_lives_the_same_day() {
        let day = |seed| (0..96).map(|q| at(seed, 0, q * 15)).collect::<Vec<_>>();
        assert_eq!(day(5), day(5));
        assert_ne!(day(5), day(6));
    }

    #[test]
    fn nights_are_quiet_and_mornings_are_not() {
        let present = |hour| {
            (0..1_000)
                .filter(|s| at(*s, hour, 0).availability != "Offline")
                .count()
        };
        assert_eq!(present(3), 0);
        assert!(present(10) > 850, "{}", present(10));
        assert!(present(22) < 20);
        let sunday = (0..1_000)
            .filter(|s| {
                let t = Timestamp::from_secs(TUESDAY - 2 * DAY + 14 * 3_600);
                moment(*s, t).availability != "Offline"
            })
            .count();
        assert!(sunday < 100);
    }

    #[test]
    fn everything_a_day_can_hold_occurs() {
        let mut seen = BTreeSet::new();
        for seed in 0..300 {
            for minute in (0..1_440).step_by(3) {
                let m = at(seed, 0, minute);
                seen.insert((m.availability, m.activity));
                assert!(m.since <= Timestamp::from_secs(TUESDAY + minute * 60));
            }
        }
        for state in [
            OFFLINE,
            OFF_WORK,
            AVAILABLE,
            AWAY,
            IDLE,
            BUSY_IDLE,
            BUSY,
            MEETING,
            CALL,
            CONFERENCE,
            PRESENTING,
            FOCUSING,
            DO_NOT_DISTURB,
            RIGHT_BACK,
        ] {
            assert!(seen.contains(&state), "{state:?} never occurs");
        }
        let out = (0..1_000).filter(|s| at(*s, 10, 0).out_of_office).count();
        assert!((20..150).contains(&out), "{out} of 1000 are out of office");
    }

    #[test]
    fn steps_rise() {
        for seed in 0..300 {
            let steps = plan(seed, TUESDAY / DAY).steps;
            assert!(steps.windows(2).all(|w| w[0].0 <= w[1].0), "{steps:?}");
        }
    }
}
