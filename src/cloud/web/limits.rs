//! How often an address may do what costs something. `security-and-faults.md` §4.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;

use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};
use http::HeaderMap;
use uuid::Uuid;

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

    /// Whether this address may go on.
    pub fn allows(&self, address: IpAddr) -> bool {
        if self.known.len() >= MAX_ADDRESSES {
            self.known.retain_recent();
            if self.known.len() >= MAX_ADDRESSES {
                return self.shared.check().is_ok();
            }
        }
        self.known.check_key(&network(address)).is_ok()
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

/// One customer has a whole network of IPv6 addresses: they count as one.
pub fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & !(u128::MAX >> 64))),
        },
    }
}

/// The browser's address: the peer's, or behind a proxy what the proxy itself has added last.
pub fn address(peer: IpAddr, behind_proxy: bool, headers: &HeaderMap) -> IpAddr {
    if !behind_proxy {
        return peer;
    }
    headers
        .get_all("x-forwarded-for")
        .iter()
        .next_back()
        .and_then(|value| value.to_str().ok()?.rsplit(',').next()?.trim().parse().ok())
        .unwrap_or(peer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_budget_and_a_network_of_ipv6_has_one() {
        let limits = Limits::new(20);
        let v6 = |n: u128| IpAddr::V6(Ipv6Addr::from((0x2001_0db8_u128 << 96) + n));
        let allowed = (0..30).filter(|n| limits.begin.allows(v6(*n))).count();
        assert_eq!(allowed, 10);
        assert!(limits.begin.allows("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn only_what_the_proxy_added_itself_is_believed() {
        let peer: IpAddr = "10.0.0.1".parse().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", "1.1.1.1, 192.0.2.7".parse().unwrap());
        assert_eq!(address(peer, false, &headers), peer);
        assert_eq!(
            address(peer, true, &headers),
            "192.0.2.7".parse::<IpAddr>().unwrap()
        );
        headers.insert("x-forwarded-for", "nonsense".parse().unwrap());
        assert_eq!(address(peer, true, &headers), peer);
    }
}
