//! Configuration of a listener: where, TLS, and what stands in front of it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;

use super::load::Loader;

/// Most connections a listener holds open, if nothing else is said.
pub const CONNECTIONS: usize = 20_000;

/// Most connections one address holds open, if nothing else is said.
pub const CONNECTIONS_PER_ADDRESS: usize = 200;

/// One listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// TLS; `None`: plain text.
    pub tls: Option<TlsFiles>,
    /// What stands in front of it.
    pub in_front: InFront,
    /// Most open connections.
    pub max_connections: usize,
    /// Most open connections of one address.
    pub connections_per_address: usize,
}

/// TLS of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate chain, PEM.
    pub certificate: PathBuf,
    /// Private key, PEM.
    pub private_key: PathBuf,
}

/// What stands in front of a listener and tells who is at the other end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum InFront {
    /// Nothing: who connects is who he is.
    #[default]
    Nothing,
    /// An HTTP proxy: it writes the caller's address into `X-Forwarded-For`. Believed from these alone.
    Proxy(Trusted),
    /// A load balancer that speaks the PROXY protocol, version 1 or 2. Expected of, and believed from, these alone.
    Balancer(Trusted),
}

/// Addresses and networks whose word on the caller's address is believed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trusted(Vec<IpNet>);

impl Trusted {
    /// These.
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// This machine itself.
    pub fn this_machine() -> Self {
        Self(vec![
            IpNet::new_assert([127, 0, 0, 0].into(), 8),
            IpNet::new_assert(std::net::Ipv6Addr::LOCALHOST.into(), 128),
        ])
    }

    /// Whether this one is among them.
    pub fn has(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

impl ListenerConfig {
    /// With nothing in front and the usual limits.
    pub fn plain(listen: SocketAddr) -> Self {
        Self {
            listen,
            tls: None,
            in_front: InFront::Nothing,
            max_connections: CONNECTIONS,
            connections_per_address: CONNECTIONS_PER_ADDRESS,
        }
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }
}

/// The keys of a listener in its section. `None`: `listen` is missing, and there is no default for it. `may_be_balanced`: whether it may
/// stand behind the PROXY protocol; the one that our own command line talks to may not.
pub(super) fn listener(
    loader: &mut Loader,
    section: &str,
    default: Option<SocketAddr>,
    may_be_balanced: bool,
) -> Option<ListenerConfig> {
    let mut s = loader.section(section);
    let listen = s.socket_addr("listen").or(default);
    let certificate = s.path("certificate_file");
    let private_key = s.path("private_key_file");
    let behind_proxy = s.bool_or("behind_proxy", false);
    let proxy_protocol = may_be_balanced && s.bool_or("proxy_protocol", false);
    let named = s.text_list("trusted_proxies");
    let most = |s: &mut super::load::Section<'_>, key, default: usize, most: i64| {
        let standard = i64::try_from(default).unwrap_or(most);
        usize::try_from(s.int_or(key, standard, 1..=most)).unwrap_or(default)
    };
    let max_connections = most(&mut s, "max_connections", CONNECTIONS, 1_000_000);
    let connections_per_address = most(
        &mut s,
        "connections_per_address",
        CONNECTIONS_PER_ADDRESS,
        1_000_000,
    );
    let mut networks = Vec::new();
    for text in &named {
        match network(text) {
            Some(network) => networks.push(network),
            None => s.problem(
                "trusted_proxies",
                format!(
                    "{text:?} is no address and no network, such as \"10.0.0.7\" or \"10.1.0.0/16\""
                ),
            ),
        }
    }
    if behind_proxy && proxy_protocol {
        s.problem(
            "proxy_protocol",
            "is one way to learn who calls and behind_proxy another; choose the one that what stands in front speaks",
        );
    }
    let in_front = behind_proxy || proxy_protocol;
    let open = listen.is_some_and(|listen| !listen.ip().is_loopback());
    if in_front && open && named.is_empty() {
        s.problem(
            "trusted_proxies",
            "must name the addresses of what stands in front, because others reach this listener too: anybody could claim any address",
        );
    }
    let tls = match (certificate, private_key) {
        (Some(certificate), Some(private_key)) => Some(TlsFiles {
            certificate,
            private_key,
        }),
        (None, None) => None,
        _ => {
            loader.problem(section, "certificate_file and private_key_file go together");
            None
        }
    };
    // Plain text is for this machine, and for what terminates TLS in front.
    if tls.is_none() && open && !in_front {
        loader.problem(
            &format!("{section}.listen"),
            "is open to other machines, so certificate_file and private_key_file are needed, or behind_proxy = true or \
             proxy_protocol = true if something before it terminates TLS",
        );
    }
    let trusted = if named.is_empty() {
        Trusted::this_machine()
    } else {
        Trusted::new(networks)
    };
    Some(ListenerConfig {
        listen: listen?,
        tls,
        in_front: match (behind_proxy, proxy_protocol) {
            (true, _) => InFront::Proxy(trusted),
            (_, true) => InFront::Balancer(trusted),
            _ => InFront::Nothing,
        },
        max_connections,
        connections_per_address,
    })
}

fn network(text: &str) -> Option<IpNet> {
    text.parse()
        .ok()
        .or_else(|| Some(IpNet::from(text.parse::<IpAddr>().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ListenerConfig, String> {
        let text = format!("[grpc]\n{text}\n");
        let mut loader = Loader::from_text("cloud.toml", &text, "TEST", []).unwrap();
        let listener = listener(&mut loader, "grpc", Some(([127, 0, 0, 1], 1).into()), true);
        loader.finish().map_err(|e| e.to_string())?;
        Ok(listener.unwrap())
    }

    #[test]
    fn only_who_is_named_is_believed() {
        let all = "listen = \"0.0.0.0:443\"\nproxy_protocol = true\n";
        let named = read(&format!(
            "{all}trusted_proxies = [\"10.0.0.7\", \"10.1.0.0/16\", \"2001:db8::/32\"]"
        ));
        let InFront::Balancer(trusted) = named.unwrap().in_front else {
            panic!("no balancer");
        };
        for (address, believed) in [
            ("10.0.0.7", true),
            ("10.0.0.8", false),
            ("10.1.255.1", true),
            ("::ffff:10.1.0.1", true),
            ("2001:db8:1::1", true),
            ("127.0.0.1", false),
        ] {
            assert_eq!(trusted.has(address.parse().unwrap()), believed, "{address}");
        }
        let InFront::Proxy(own) = read("behind_proxy = true").unwrap().in_front else {
            panic!("no proxy");
        };
        assert!(own.has([127, 0, 0, 1].into()) && !own.has([10, 0, 0, 7].into()));
        assert_eq!(read("").unwrap().in_front, InFront::Nothing);
    }

    #[test]
    fn what_cannot_be_meant_is_said() {
        for (text, problem) in [
            ("listen = \"0.0.0.0:443\"\nbehind_proxy = true", "must name"),
            (
                "listen = \"0.0.0.0:443\"",
                "is open to other machines, so certificate_file",
            ),
            (
                "behind_proxy = true\ntrusted_proxies = [\"balancer\"]",
                "\"balancer\" is no address",
            ),
            (
                "behind_proxy = true\nproxy_protocol = true",
                "choose the one",
            ),
            ("max_connections = 0", "max_connections"),
            ("certificate_file = \"c.pem\"", "go together"),
        ] {
            let problems = read(text).unwrap_err();
            assert!(problems.contains(problem), "{text}: {problems}");
        }
    }
}
