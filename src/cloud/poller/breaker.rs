//! Whether an endpoint of Microsoft may be called for a tenant: the circuit breaker, and how long it stays open.
//!
//! Pure. There is one breaker per tenant and endpoint: presence, lookups of names, tokens. Three states:
//!
//! - *closed*: calls are made as planned.
//! - *open*: after a failure nothing is asked until the pause is over. Pauses grow from failure to failure and are random under a
//!   growing ceiling, so that many tenants that failed together do not come back together.
//! - *half-open*: the pause is over. One call goes out and nothing beside it; its outcome closes the breaker or opens it again.
//!
//! `security-and-faults.md` §6 opens a breaker after five failures in a row and backs off before. This one opens at the first
//! failure, with a pause of half a second at most, so that backing off and breaking are one thing. Being throttled opens it for the
//! time Microsoft tells. Pauses that people have to end, as after a refusal, are decided by [`crate::cloud::health`].

use std::time::Duration;

use crate::backoff::{Backoff, throttle_wait};

/// Failures in a row after which Microsoft is down for long rather than for a moment: some minutes of trying.
const FAILURES_BEFORE_LONG_PAUSES: u32 = 20;

/// Ceiling of the pauses from then on. `security-and-faults.md` §6, breaker.
pub const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// Nothing that Microsoft tells counts for more.
const LONGEST_TOLD: Duration = Duration::from_hours(1);

/// Where a breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BreakerState {
    /// Calls are made as planned.
    #[default]
    Closed,
    /// Nothing is asked.
    Open,
    /// One call decides.
    HalfOpen,
}

impl BreakerState {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    /// The word for programs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// The breaker of one endpoint, by any measure of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breaker<T> {
    /// Until when it is open; in the past, it is half-open; `None`: closed.
    until: Option<T>,
}

impl<T> Default for Breaker<T> {
    fn default() -> Self {
        Self { until: None }
    }
}

impl<T: Copy + Ord> Breaker<T> {
    /// Where it stands.
    pub fn state(&self, now: T) -> BreakerState {
        match self.until {
            None => BreakerState::Closed,
            Some(until) if now < until => BreakerState::Open,
            Some(_) => BreakerState::HalfOpen,
        }
    }

    /// Until when nothing may be asked, while that is so.
    pub fn open_until(&self, now: T) -> Option<T> {
        self.until.filter(|until| now < *until)
    }

    /// How many calls may be under way at the same time, of as many as are wanted.
    pub fn at_once(&self, now: T, wanted: usize) -> usize {
        match self.state(now) {
            BreakerState::Closed => wanted,
            BreakerState::HalfOpen => wanted.min(1),
            BreakerState::Open => 0,
        }
    }

    /// A call failed: open until then. Never shortens an earlier pause.
    pub fn failed(&mut self, until: T) {
        self.until = self.until.max(Some(until));
    }

    /// A call was answered.
    pub fn succeeded(&mut self) {
        self.until = None;
    }

    /// Something has changed that makes it worth trying before the pause is over: half-open, unless it is closed.
    pub fn try_now(&mut self, now: T) {
        self.until = self.until.map(|until| until.min(now));
    }
}

/// How long a breaker stays open, from failure to failure.
#[derive(Debug)]
pub struct Pauses {
    /// Since the last success.
    failures: u32,
    throttled: u32,
    short: Backoff,
    /// Takes the place of the other after many failures in a row.
    long: Backoff,
    rng: fastrand::Rng,
}

impl Pauses {
    /// The same seed gives the same pauses.
    pub fn new(seed: u64) -> Self {
        Self {
            failures: 0,
            throttled: 0,
            short: Backoff::for_calls(seed),
            long: Backoff::new(Duration::from_secs(5), LONGEST_PAUSE, seed),
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// After a failure that may pass; never less than Microsoft told, up to an hour.
    pub fn after_failure(&mut self, told: Option<Duration>) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let own = if self.failures > FAILURES_BEFORE_LONG_PAUSES {
            self.long.next_wait()
        } else {
            self.short.next_wait()
        };
        told.unwrap_or_default().min(LONGEST_TOLD).max(own)
    }

    /// After being throttled: as told, else ever longer.
    pub fn after_throttling(&mut self, told: Option<Duration>) -> Duration {
        self.throttled = self.throttled.saturating_add(1);
        throttle_wait(told, self.throttled, &mut self.rng)
    }

    /// It works, or is worth trying as if it did.
    pub fn start_over(&mut self) {
        self.failures = 0;
        self.short.reset();
        self.long.reset();
    }

    /// It works.
    pub fn succeeded(&mut self) {
        self.start_over();
        self.throttled = 0;
    }
}

#[cfg(test)]
mod tests;
