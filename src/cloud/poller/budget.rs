//! May we ask now? Token buckets below Microsoft's published limits, and "not before" when Microsoft said so.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Mutex;
use std::time::Duration;

use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::time::Instant;

/// Never closed for longer, whatever we are told: an hour, and the tenth by which waits are spread.
const LONGEST_STOP: Duration = Duration::from_mins(66);

/// Who waits looks again after this time at the latest.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A published limit and how much of it we use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limit {
    /// Published cost allowed per window.
    pub published: u32,
    /// The window.
    pub window: Duration,
    /// Part of it that we use, 0 to 1.
    pub share: f64,
}

impl Limit {
    /// Requests for presence per app and tenant. `microsoft-graph.md` §10: 1,500 per 30 s is the lower of two published limits.
    pub const PRESENCE: Self = Self {
        published: 1_500,
        window: Duration::from_secs(30),
        share: 0.6,
    };

    /// Resource units of users per app and tenant. `microsoft-graph.md` §10: 3,500 per 10 s for the smallest tenants.
    pub const USERS: Self = Self {
        published: 3_500,
        window: Duration::from_secs(10),
        share: 0.6,
    };

    /// Requests of the app to all of Graph. `microsoft-graph.md` §10: 130,000 per 10 s.
    pub const APPLICATION: Self = Self {
        published: 130_000,
        window: Duration::from_secs(10),
        share: 0.6,
    };

    /// Most cost within any window.
    pub fn allowed(self) -> u32 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a u32, between 0 and itself"
        )]
        let allowed = (f64::from(self.published) * self.share.clamp(0.0, 1.0)) as u32;
        allowed.max(2)
    }

    /// A bucket lets `burst + window × rate` through a window: a tenth as burst, the rest as rate.
    fn quota(self) -> (Quota, f64) {
        let allowed = self.allowed();
        let burst = NonZeroU32::new((allowed / 10).max(1)).unwrap_or(NonZeroU32::MIN);
        let rate = f64::from(allowed - burst.get()).max(1.0) / self.window.as_secs_f64();
        let quota = Quota::with_period(Duration::from_secs_f64(1.0 / rate))
            .expect("a rate is finite and above zero")
            .allow_burst(burst);
        (quota, rate)
    }
}

/// A clock for governor that follows tokio's, paused or not.
#[derive(Debug, Clone)]
struct TokioClock(Instant);

impl governor::clock::Clock for TokioClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.elapsed().into()
    }
}

struct Window {
    spent: VecDeque<(Instant, u32)>,
    sum: u32,
    closed_until: Option<Instant>,
}

/// One budget: of a tenant and a service, or of the whole application.
pub struct Budget {
    limit: Limit,
    rate: f64,
    burst: NonZeroU32,
    clock: TokioClock,
    limiter: RateLimiter<NotKeyed, InMemoryState, TokioClock, NoOpMiddleware<Nanos>>,
    window: Mutex<Window>,
    /// Whoever waits holds this, so that those who wait are served in the order in which they came.
    queue: tokio::sync::Mutex<()>,
}

impl Budget {
    /// A full bucket.
    pub fn new(limit: Limit) -> Self {
        let (quota, rate) = limit.quota();
        let clock = TokioClock(Instant::now());
        Self {
            limit,
            rate,
            burst: quota.burst_size(),
            limiter: RateLimiter::direct_with_clock(quota, clock.clone()),
            clock,
            window: Mutex::new(Window {
                spent: VecDeque::new(),
                sum: 0,
                closed_until: None,
            }),
            queue: tokio::sync::Mutex::new(()),
        }
    }

    /// Waits until this cost may be spent, and spends it. A cost above the burst is spent in portions, one after the other.
    pub async fn spend(&self, cost: u32) {
        let _turn = self.queue.lock().await;
        let mut left = cost.max(1);
        while let Some(portion) = NonZeroU32::new(left.min(self.burst.get())) {
            self.spend_portion(portion).await;
            left -= portion.get();
        }
    }

    async fn spend_portion(&self, cost: NonZeroU32) {
        loop {
            let wait = match self.closed_for() {
                Some(closed) => closed,
                None => match self.limiter.check_n(cost) {
                    Ok(Ok(())) => break,
                    Ok(Err(not_until)) => {
                        not_until.wait_time_from(governor::clock::Clock::now(&self.clock))
                    }
                    Err(_) => unreachable!("a portion is at most the burst"),
                },
            };
            // Looked at again before long: the budget may be opened again while we wait.
            let wait = wait.clamp(Duration::from_millis(1), LOOK_AGAIN);
            tokio::time::sleep(wait).await;
        }
        let mut window = self.window();
        window.spent.push_back((Instant::now(), cost.get()));
        window.sum += cost.get();
        window.trim(self.limit.window);
    }

    /// Microsoft told us to stop: nothing may be spent for this long, `LONGEST_STOP` at most. Never shortens an earlier stop.
    pub fn close_for(&self, wait: Duration) {
        let until = Instant::now() + wait.min(LONGEST_STOP);
        let mut window = self.window();
        window.closed_until = window.closed_until.max(Some(until));
    }

    /// A person wants it tried again now, whatever we were told before.
    pub fn reopen(&self) {
        self.window().closed_until = None;
    }

    /// How much longer nothing may be spent because Microsoft said so.
    pub fn closed_for(&self) -> Option<Duration> {
        let until = self.window().closed_until?;
        let left = until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// Cost spent in the last window.
    pub fn used(&self) -> u32 {
        let mut window = self.window();
        window.trim(self.limit.window);
        window.sum
    }

    /// Cost that can be spent per second for ever.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// The limit behind this budget.
    pub fn limit(&self) -> Limit {
        self.limit
    }

    fn window(&self) -> std::sync::MutexGuard<'_, Window> {
        self.window
            .lock()
            .expect("nothing panics while holding a budget")
    }
}

impl Window {
    fn trim(&mut self, length: Duration) {
        while let Some((at, cost)) = self.spent.front() {
            if at.elapsed() < length {
                return;
            }
            self.sum -= cost;
            self.spent.pop_front();
        }
    }
}

/// Time between two readings of everybody: as configured while the budget allows, stretched when it does not.
pub fn cadence(
    configured: Duration,
    requests_per_sweep: usize,
    requests_per_second: f64,
) -> Duration {
    let requests = u32::try_from(requests_per_sweep).unwrap_or(u32::MAX);
    configured.max(Duration::from_secs_f64(
        f64::from(requests) / requests_per_second,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_window_lets_more_through_than_our_share_of_the_limit() {
        for limit in [
            Limit::PRESENCE,
            Limit::USERS,
            Limit {
                published: 10,
                ..Limit::PRESENCE
            },
        ] {
            let budget = Budget::new(limit);
            let mut spent: Vec<Instant> = Vec::new();
            let start = Instant::now();
            while start.elapsed() < limit.window * 3 {
                budget.spend(1).await;
                spent.push(Instant::now());
                let in_window = spent
                    .iter()
                    .filter(|at| at.elapsed() < limit.window)
                    .count();
                assert!(
                    in_window <= limit.allowed() as usize,
                    "{in_window} in one window, {limit:?}"
                );
            }
            assert!(
                spent.len() >= limit.allowed() as usize * 2,
                "the budget is used: {} {limit:?}",
                spent.len()
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn told_to_stop_nothing_is_spent_before() {
        let budget = Budget::new(Limit::PRESENCE);
        budget.spend(1).await;
        budget.close_for(Duration::from_secs(41));
        budget.close_for(Duration::from_secs(5));
        let start = Instant::now();
        budget.spend(1).await;
        assert!(start.elapsed() >= Duration::from_secs(41));
        assert_eq!(budget.closed_for(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn no_stop_lasts_for_ever_and_a_person_can_end_it() {
        let budget = Budget::new(Limit::PRESENCE);
        budget.close_for(Duration::MAX);
        let start = Instant::now();
        budget.spend(1).await;
        assert!(start.elapsed() >= Duration::from_hours(1) && start.elapsed() <= LONGEST_STOP * 2);
        budget.close_for(Duration::from_hours(1));
        let start = Instant::now();
        let reopened = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            budget.reopen();
        };
        tokio::join!(budget.spend(1), reopened);
        assert!(start.elapsed() <= Duration::from_secs(7));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cost_above_the_burst_is_spent_in_full() {
        let limit = Limit {
            published: 100,
            ..Limit::PRESENCE
        };
        let budget = Budget::new(limit);
        let start = Instant::now();
        budget.spend(20).await;
        // Six at once, the other fourteen at 54 in 30 seconds.
        assert_eq!(budget.used(), 20);
        assert!(start.elapsed() >= Duration::from_secs(7));
        for _ in 0..20 {
            budget.spend(20).await;
            assert!(budget.used() <= limit.allowed(), "{}", budget.used());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_used_leaves_the_window() {
        let budget = Budget::new(Limit::PRESENCE);
        budget.spend(7).await;
        assert_eq!(budget.used(), 7);
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn the_cadence_stretches_when_the_budget_is_short() {
        let five = Duration::from_secs(5);
        assert_eq!(cadence(five, 4, 27.0), five);
        assert_eq!(cadence(five, 270, 27.0), Duration::from_secs(10));
    }
}
