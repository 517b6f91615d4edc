//! How many connections an address has, and how fast they came.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use super::paced::Shared;

/// Connections of one address accepted per second in the long run, and at once.
const ACCEPTS_PER_SECOND: NonZeroU32 = NonZeroU32::new(20).unwrap();
const ACCEPTS_AT_ONCE: NonZeroU32 = NonZeroU32::new(100).unwrap();

/// With more addresses remembered than this, those that are at rest are forgotten.
const ADDRESSES_KEPT: usize = 10_000;

/// Who calls; in the extensions of every request. Behind a proxy that is trusted it is who called the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub IpAddr);

impl Peer {
    /// Who sent this request; unspecified for one that did not come over a listener.
    pub fn of(extensions: &http::Extensions) -> Self {
        let peer = extensions.get().copied();
        peer.unwrap_or(Self([0, 0, 0, 0].into()))
    }

    /// Its network, where a host has a whole network to choose from.
    pub fn network(self) -> IpAddr {
        match self.0.to_canonical() {
            v4 @ IpAddr::V4(_) => v4,
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
        }
    }

    /// Under which address it is counted. `None` for this machine itself, from where whatever stands in front may come.
    pub fn counted_as(self) -> Option<IpAddr> {
        (!self.0.to_canonical().is_loopback()).then(|| self.network())
    }
}

/// What is open of an address: how many connections, and what they may send together.
#[derive(Default)]
struct Open {
    connections: usize,
    budget: Arc<Shared>,
}

/// What is open, by address.
type OpenByAddress = Arc<Mutex<HashMap<IpAddr, Open>>>;

/// Who has how many connections.
pub(super) struct Addresses {
    accepts: DefaultKeyedRateLimiter<IpAddr>,
    open: OpenByAddress,
    most: usize,
}

/// A connection that counts until this is dropped.
pub(super) struct Entered(Option<Counted>);

struct Counted {
    address: IpAddr,
    budget: Arc<Shared>,
    all: OpenByAddress,
}

impl Entered {
    /// What all connections of its address may send together.
    pub(super) fn budget(&self) -> Option<Arc<Shared>> {
        let counted = self.0.as_ref()?;
        Some(Arc::clone(&counted.budget))
    }

    /// A connection that counts for no address.
    pub(super) fn for_nobody() -> Self {
        Self(None)
    }
}

impl Addresses {
    /// With at most so many open connections of one address.
    pub(super) fn new(most: usize) -> Self {
        let quota = Quota::per_second(ACCEPTS_PER_SECOND).allow_burst(ACCEPTS_AT_ONCE);
        Self {
            accepts: RateLimiter::keyed(quota),
            open: Arc::default(),
            most,
        }
    }

    /// `None` when there are too many from there.
    pub(super) fn enter(&self, peer: Peer) -> Option<Entered> {
        let Some(address) = peer.counted_as() else {
            return Some(Entered(None));
        };
        if self.accepts.len() > ADDRESSES_KEPT {
            self.accepts.retain_recent();
        }
        self.accepts.check_key(&address).ok()?;
        let mut all = self.open.lock().expect("nothing panics while counting");
        let open = all.entry(address).or_default();
        if open.connections >= self.most {
            return None;
        }
        open.connections += 1;
        let budget = Arc::clone(&open.budget);
        drop(all);
        Some(Entered(Some(Counted {
            address,
            budget,
            all: Arc::clone(&self.open),
        })))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let Some(Counted { address, all, .. }) = self.0.take() else {
            return;
        };
        let mut all = all.lock().expect("nothing panics while counting");
        if let Some(open) = all.get_mut(&address) {
            open.connections -= 1;
            if open.connections == 0 {
                all.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> Peer {
        Peer(text.parse().unwrap())
    }

    #[test]
    fn a_host_is_counted_by_its_network_and_this_machine_not_at_all() {
        for (address, counted) in [
            ("192.0.2.7", Some("192.0.2.7")),
            ("::ffff:192.0.2.7", Some("192.0.2.7")),
            ("2001:db8:1:2:3:4:5:6", Some("2001:db8:1:2::")),
            ("127.0.0.9", None),
            ("::1", None),
            ("::ffff:127.0.0.1", None),
        ] {
            let expected = counted.map(|text| text.parse().unwrap());
            assert_eq!(peer(address).counted_as(), expected, "{address}");
        }
    }

    #[tokio::test]
    async fn one_host_cannot_take_every_place() {
        let addresses = Addresses::new(200);
        let at_once: Vec<_> = (0..150)
            .map_while(|_| addresses.enter(peer("192.0.2.1")))
            .collect();
        assert!((100..110).contains(&at_once.len()), "{}", at_once.len());
        assert!(addresses.enter(peer("192.0.2.2")).is_some());
        let open = Arc::clone(&addresses.open);
        let many = Open {
            connections: 200,
            ..Open::default()
        };
        open.lock()
            .unwrap()
            .insert("192.0.2.3".parse().unwrap(), many);
        assert!(addresses.enter(peer("192.0.2.3")).is_none());
        assert!((0..1000).all(|_| addresses.enter(peer("127.0.0.1")).is_some()));
        drop(at_once);
        let one = peer("192.0.2.1").counted_as().unwrap();
        assert!(!open.lock().unwrap().contains_key(&one));
    }
}
