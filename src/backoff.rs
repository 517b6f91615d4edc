//! Waiting before trying again: full jitter for failures, the told time for throttling.
//!
//! Parameters: `security-and-faults.md` §6.

use std::time::Duration;

/// Exponential backoff with full jitter: `rand(0, min(cap, base · 2ⁿ))`.
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    attempt: u32,
    rng: fastrand::Rng,
}

impl Backoff {
    /// For calls to Microsoft: base 0.5 s, cap 60 s.
    pub fn for_calls(seed: u64) -> Self {
        Self::new(Duration::from_millis(500), Duration::from_mins(1), seed)
    }

    /// For reconnecting to the cloud: base 1 s, cap 60 s.
    pub fn for_reconnects(seed: u64) -> Self {
        Self::new(Duration::from_secs(1), Duration::from_mins(1), seed)
    }

    /// With parameters of one's own; the same seed gives the same waits.
    pub fn new(base: Duration, cap: Duration, seed: u64) -> Self {
        Self {
            base,
            cap,
            attempt: 0,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// How long to wait before the next attempt.
    pub fn next_wait(&mut self) -> Duration {
        let ceiling = self
            .base
            .saturating_mul(1_u32.checked_shl(self.attempt.min(31)).unwrap_or(u32::MAX))
            .min(self.cap);
        self.attempt = self.attempt.saturating_add(1);
        ceiling.mul_f64(self.rng.f64())
    }

    /// Failures in a row so far.
    pub fn attempts(&self) -> u32 {
        self.attempt
    }

    /// To be called after a success.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

/// How long to stop a whole bucket after being throttled for the `nth` time in a row (1 is the first).
///
/// Told a time, wait that long, between one second and one hour; told nothing usable, a minute, doubling up to 15 minutes. In both
/// cases up to a tenth more, so that those who were throttled together do not come back together.
pub fn throttle_wait(told: Option<Duration>, nth: u32, rng: &mut fastrand::Rng) -> Duration {
    const MINUTE: Duration = Duration::from_mins(1);
    let least = match told {
        Some(told) if !told.is_zero() => {
            told.clamp(Duration::from_secs(1), Duration::from_hours(1))
        }
        _ => MINUTE
            .saturating_mul(1 << nth.saturating_sub(1).min(4))
            .min(MINUTE * 15),
    };
    least.mul_f64(1.0 + rng.f64() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_stay_under_a_growing_ceiling() {
        let mut backoff = Backoff::for_calls(7);
        let mut ceiling = Duration::from_millis(500);
        for _ in 0..40 {
            assert!(backoff.next_wait() <= ceiling);
            ceiling = (ceiling * 2).min(Duration::from_mins(1));
        }
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(500));
    }

    #[test]
    fn never_earlier_than_told() {
        let mut rng = fastrand::Rng::with_seed(1);
        for told in [1, 10, 315, 3600] {
            let told = Duration::from_secs(told);
            let wait = throttle_wait(Some(told), 1, &mut rng);
            assert!(wait >= told && wait <= told.mul_f64(1.1));
        }
        assert!(
            throttle_wait(Some(Duration::from_hours(50)), 1, &mut rng) < Duration::from_hours(2)
        );
    }

    #[test]
    fn told_nothing_waits_longer_each_time() {
        let mut rng = fastrand::Rng::with_seed(1);
        for (n, least) in (1..).zip([60, 120, 240, 480, 900, 900, 900]) {
            let least = Duration::from_secs(least);
            let wait = throttle_wait(None, n, &mut rng);
            assert!(wait >= least && wait <= least.mul_f64(1.1), "{n}: {wait:?}");
        }
    }
}
