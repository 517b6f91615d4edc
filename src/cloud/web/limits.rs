//! How often an address may do what costs something. `security-and-faults.md` §4.

use std::net::IpAddr;
use std::num::NonZeroU32;

use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};
use uuid::Uuid;

use crate::cloud::listener::Peer;

/// Most addresses remembered; beyond that all others share one budget.
const MAX_ADDRESSES: usize = 100_000;

/// A budget per address.
pub struct PerAddress {
    known: DefaultKeyedRateLimiter<IpAddr>,
    shared: DefaultDirectRateLimiter,
}

impl PerAddress {
    fn new(quota: Quota) -> Self {
        Self {
            known: RateLimiter::keyed(quota),
            shared: RateLimiter::direct(quota),
        }
    }

    /// Whether who calls from there may go on.
    pub fn allows(&self, peer: Peer) -> bool {
        if self.known.len() >= MAX_ADDRESSES {
            self.known.retain_recent();
            if self.known.len() >= MAX_ADDRESSES {
                return self.shared.check().is_ok();
            }
        }
        self.known.check_key(&peer.network()).is_ok()
    }
}

/// The budgets of the pages.
pub struct Limits {
    /// Forms that begin something, and secret links.
    pub begin: PerAddress,
    /// Browsers that come back from Microsoft.
    pub callback: PerAddress,
    /// Tries of one onboarding whose consent is still spreading.
    pub tries: DefaultKeyedRateLimiter<Uuid>,
}

impl Limits {
    /// With so many sign-ins per minute.
    pub fn new(sign_ins_per_minute: u32) -> Self {
        let per_minute = NonZeroU32::new(sign_ins_per_minute).unwrap_or(NonZeroU32::MIN);
        let burst = NonZeroU32::new(sign_ins_per_minute.div_ceil(2)).unwrap_or(NonZeroU32::MIN);
        let callbacks = per_minute.saturating_add(per_minute.get().div_ceil(2));
        let tries = Quota::with_period(std::time::Duration::from_secs(3))
            .expect("three seconds are not zero");
        Self {
            begin: PerAddress::new(Quota::per_minute(per_minute).allow_burst(burst)),
            callback: PerAddress::new(Quota::per_minute(callbacks)),
            tries: RateLimiter::keyed(tries),
        }
    }

    /// Forgets who has been quiet.
    pub fn tidy(&self) {
        self.begin.known.retain_recent();
        self.callback.known.retain_recent();
        self.tries.retain_recent();
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    #[test]
    fn an_address_has_its_budget_and_a_network_of_ipv6_has_one() {
        let limits = Limits::new(20);
        let v6 = |n: u128| Peer(Ipv6Addr::from((0x2001_0db8_u128 << 96) + n).into());
        let allowed = (0..30).filter(|n| limits.begin.allows(v6(*n))).count();
        assert_eq!(allowed, 10);
        assert!(limits.begin.allows(Peer([192, 0, 2, 1].into())));
    }
}
