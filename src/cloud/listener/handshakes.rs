//! How many TLS handshakes are begun: the dearest thing a stranger can ask for.
//!
//! When everybody comes back at once, those who are refused cost next to nothing and come again by their own jitter. Addresses from
//! which somebody was let in before have a budget of their own, so that strangers cannot use up everybody's. A restart forgets them.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use moka::sync::Cache;

use super::addresses::Peer;

/// Handshakes per second, and at once: of strangers, and the same of those who are known. `security-and-faults.md` §4.
const PER_SECOND: NonZeroU32 = NonZeroU32::new(300).unwrap();

/// An address is known for so long after somebody from there was served, and so many of them.
const KNOWN_FOR: Duration = Duration::from_hours(24);
const MOST_KNOWN: u64 = 100_000;

/// The measure of each budget.
pub fn quota() -> Quota {
    Quota::per_second(PER_SECOND)
}

/// Budgets of handshakes.
pub(super) struct Handshakes {
    strangers: DefaultDirectRateLimiter,
    others: DefaultDirectRateLimiter,
    known: Cache<IpAddr, ()>,
}

impl Default for Handshakes {
    fn default() -> Self {
        Self {
            strangers: RateLimiter::direct(quota()),
            others: RateLimiter::direct(quota()),
            known: Cache::builder()
                .max_capacity(MOST_KNOWN)
                .time_to_live(KNOWN_FOR)
                .build(),
        }
    }
}

impl Handshakes {
    /// Whether one more may begin.
    pub(super) fn allow(&self, peer: Peer) -> bool {
        let budget = if self.known.contains_key(&peer.network()) {
            &self.others
        } else {
            &self.strangers
        };
        budget.check().is_ok()
    }

    /// Somebody from there was let in.
    pub(super) fn remember(&self, peer: Peer) {
        self.known.insert(peer.network(), ());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_cannot_use_up_the_handshakes_of_those_who_are_known() {
        let handshakes = Handshakes::default();
        let stranger = |n: u32| Peer(std::net::Ipv4Addr::from(0x0a00_0000 + n).into());
        let known = Peer([192, 0, 2, 1].into());
        handshakes.remember(known);
        let begun = (0..1_000)
            .filter(|n| handshakes.allow(stranger(*n)))
            .count();
        assert!((300..400).contains(&begun), "{begun}");
        let begun = (0..1_000).filter(|_| handshakes.allow(known)).count();
        assert!((300..400).contains(&begun), "{begun}");
    }
}
