//! Throttling in a sliding window, per app, tenant and service. `microsoft-graph.md` §10.
//!
//! Microsoft documents a token bucket; a sliding log is a little meaner, as it forgives no burst. Rejected calls count too, so
//! that retrying at once prolongs the block.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use uuid::Uuid;

use super::options::Limit;
use crate::model::{TenantId, Timestamp};

/// A bucket that is counted by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// Presence requests of one app in one tenant.
    Presence(Uuid, TenantId),
    /// Resource units of users of one app in one tenant.
    Users(Uuid, TenantId),
    /// Everything of one app.
    Global(Uuid),
}

/// May this request pass?
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Decision {
    /// Yes; this share of the limit is used now, 1.0 being all of it.
    Pass(f64),
    /// No; room again after this long, if nothing more is sent. The share is above 1.0.
    Wait(Duration, f64),
}

/// What passed and what was refused, per bucket.
#[derive(Debug, Default)]
pub struct Throttle {
    logs: HashMap<Service, Log>,
}

/// Units by millisecond, oldest first.
#[derive(Debug, Default)]
struct Log {
    entries: VecDeque<(Timestamp, u32)>,
    used: u32,
}

impl Throttle {
    /// Counts a request of `cost` units and says whether it may pass.
    pub fn check(&mut self, service: Service, cost: u32, limit: Limit, now: Timestamp) -> Decision {
        let log = self.logs.entry(service).or_default();
        log.forget(now.minus(limit.window));
        log.add(now, cost);
        let share = f64::from(log.used) / f64::from(limit.units.max(1));
        if log.used <= limit.units {
            return Decision::Pass(share);
        }
        Decision::Wait(log.room_after(cost, limit, now), share)
    }
}

impl Log {
    fn forget(&mut self, until: Timestamp) {
        while let Some(&(at, units)) = self.entries.front() {
            if at > until {
                break;
            }
            self.used -= units;
            self.entries.pop_front();
        }
    }

    fn add(&mut self, now: Timestamp, cost: u32) {
        self.used += cost;
        match self.entries.back_mut() {
            Some((at, units)) if *at >= now => *units += cost,
            _ => self.entries.push_back((now, cost)),
        }
    }

    /// When the oldest entries that stand in the way of another `cost` have left the window.
    fn room_after(&self, cost: u32, limit: Limit, now: Timestamp) -> Duration {
        let mut left = self.used;
        for &(at, units) in &self.entries {
            left -= units;
            if left + cost <= limit.units {
                return now.until(at.plus(limit.window));
            }
        }
        limit.window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Limit = Limit::new(3, 30);

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_secs(secs)
    }

    fn service() -> Service {
        Service::Presence(Uuid::nil(), TenantId(Uuid::nil()))
    }

    #[test]
    fn the_window_slides() {
        let mut t = Throttle::default();
        for s in [0, 10, 20] {
            assert!(matches!(
                t.check(service(), 1, LIMIT, at(s)),
                Decision::Pass(_)
            ));
        }
        let Decision::Wait(wait, share) = t.check(service(), 1, LIMIT, at(25)) else {
            panic!("four in 30 s")
        };
        assert!(share > 1.0);
        // The refused call counts: 10, 20, 25 remain once 0 has left, so room comes when 10 leaves.
        assert_eq!(wait, Duration::from_secs(15));
        assert!(matches!(
            t.check(service(), 1, LIMIT, at(39)),
            Decision::Wait(..)
        ));
        assert!(matches!(
            t.check(service(), 1, LIMIT, at(70)),
            Decision::Pass(_)
        ));
    }

    #[test]
    fn waiting_as_told_is_enough() {
        let mut t = Throttle::default();
        let mut now = at(0);
        let mut rng = fastrand::Rng::with_seed(3);
        for _ in 0..500 {
            now = now.plus(Duration::from_millis(rng.u64(..9_000)));
            if let Decision::Wait(wait, _) = t.check(service(), 1, LIMIT, now) {
                now = now.plus(wait);
                assert!(matches!(
                    t.check(service(), 1, LIMIT, now),
                    Decision::Pass(_)
                ));
            }
        }
    }

    #[test]
    fn buckets_are_apart() {
        let mut t = Throttle::default();
        let other = Service::Presence(Uuid::nil(), TenantId(Uuid::max()));
        for _ in 0..9 {
            t.check(service(), 1, LIMIT, at(0));
        }
        assert!(matches!(t.check(other, 1, LIMIT, at(0)), Decision::Pass(_)));
    }
}
