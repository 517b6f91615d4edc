//! Who is at the other end, when something stands in front that tells it: PROXY protocol and `X-Forwarded-For`.
//!
//! Both are believed from trusted peers alone: whoever else says such a thing is taken for what he is.

use std::net::IpAddr;
use std::time::Duration;

use http::HeaderMap;
use ppp::{HeaderResult, v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::addresses::Peer;
use crate::config::listeners::{InFront, Trusted};

/// What stands in front must have said within this time who is at the other end.
const INTRODUCTION: Duration = Duration::from_secs(5);

/// A header is not shorter, in neither version.
const SHORTEST: usize = 15;

/// Longest header of version 1, and what is read of one of version 2: addresses, and what balancers add.
const LONGEST_V1: usize = 107;
const LONGEST_V2: usize = 4 << 10;

/// How version 2 begins.
const SIGNATURE_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Why a balancer was not understood.
#[derive(Debug, thiserror::Error)]
pub enum NoIntroduction {
    /// Nothing came, or not all of it.
    #[error("it did not say in time who is at the other end")]
    Silent,
    /// The connection ended before.
    #[error("it ended before it said who is at the other end")]
    Ended(#[from] std::io::Error),
    /// Something else came.
    #[error("what it said is not the PROXY protocol")]
    NotProxyProtocol,
}

/// Reads the header of the PROXY protocol, and not one byte more. `None`: the balancer speaks for itself, as it does to see whether we
/// are there.
pub(super) async fn introduced(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<IpAddr>, NoIntroduction> {
    tokio::time::timeout(INTRODUCTION, read(stream))
        .await
        .map_err(|_| NoIntroduction::Silent)?
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<IpAddr>, NoIntroduction> {
    let mut header = vec![0; SHORTEST];
    stream.read_exact(&mut header).await?;
    if header.starts_with(SIGNATURE_V2) {
        header.push(stream.read_u8().await?);
        let more = usize::from(u16::from_be_bytes([header[14], header[15]]));
        if header.len() + more > LONGEST_V2 {
            return Err(NoIntroduction::NotProxyProtocol);
        }
        let begun = header.len();
        header.resize(begun + more, 0);
        stream.read_exact(&mut header[begun..]).await?;
    } else if header.starts_with(b"PROXY ") {
        while !header.ends_with(b"\r\n") {
            if header.len() == LONGEST_V1 {
                return Err(NoIntroduction::NotProxyProtocol);
            }
            header.push(stream.read_u8().await?);
        }
    }
    parse(&header)
}

/// Who is at the other end, by one whole header. `None`: nobody is named.
pub fn parse(header: &[u8]) -> Result<Option<IpAddr>, NoIntroduction> {
    Ok(match HeaderResult::parse(header) {
        HeaderResult::V1(Ok(header)) => match header.addresses {
            v1::Addresses::Tcp4(pair) => Some(pair.source_address.into()),
            v1::Addresses::Tcp6(pair) => Some(pair.source_address.into()),
            v1::Addresses::Unknown => None,
        },
        HeaderResult::V2(Ok(header)) if header.command == v2::Command::Proxy => {
            match header.addresses {
                v2::Addresses::IPv4(pair) => Some(pair.source_address.into()),
                v2::Addresses::IPv6(pair) => Some(pair.source_address.into()),
                v2::Addresses::Unix(_) | v2::Addresses::Unspecified => None,
            }
        }
        HeaderResult::V2(Ok(_)) => None,
        HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => {
            return Err(NoIntroduction::NotProxyProtocol);
        }
    })
}

/// Whether many use a connection of `peer`: it is a trusted proxy's.
pub(super) fn is_shared(in_front: &InFront, peer: Peer) -> bool {
    matches!(in_front, InFront::Proxy(trusted) if trusted.has(peer.0))
}

/// Who sent this request over a connection of `peer`.
pub fn caller(in_front: &InFront, peer: Peer, headers: &HeaderMap) -> Peer {
    match in_front {
        InFront::Proxy(trusted) if is_shared(in_front, peer) => {
            Peer(forwarded(trusted, headers).unwrap_or(peer.0))
        }
        _ => peer,
    }
}

/// The last address in `X-Forwarded-For` that is not a trusted proxy's: what stands before it anybody could have written.
fn forwarded(trusted: &Trusted, headers: &HeaderMap) -> Option<IpAddr> {
    for line in headers.get_all("x-forwarded-for").iter().rev() {
        for part in line.to_str().ok()?.rsplit(',') {
            let address = address(part.trim())?;
            if !trusted.has(address) {
                return Some(address);
            }
        }
    }
    None
}

/// An address as proxies write it: with or without a port, with or without brackets.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    bare.unwrap_or(text).parse().ok().or_else(|| {
        let with_port: std::net::SocketAddr = text.parse().ok()?;
        Some(with_port.ip())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is heard of these bytes, and how many of them were read.
    async fn hear(bytes: &[u8]) -> (Result<Option<IpAddr>, NoIntroduction>, usize) {
        let mut rest = bytes;
        let heard = introduced(&mut rest).await;
        (heard, bytes.len() - rest.len())
    }

    #[tokio::test]
    async fn a_balancer_introduces_who_is_there_in_either_version_and_what_follows_is_left() {
        let v2_of = |addresses: ((&str, u16), (&str, u16))| {
            let ((from, from_port), (to, to_port)) = addresses;
            let from = std::net::SocketAddr::new(from.parse().unwrap(), from_port);
            let to = std::net::SocketAddr::new(to.parse().unwrap(), to_port);
            v2::Builder::with_addresses(
                v2::Version::Two | v2::Command::Proxy,
                v2::Protocol::Stream,
                (from, to),
            )
            .write_tlv(v2::Type::UniqueId, b"an-id-of-the-balancer")
            .unwrap()
            .build()
            .unwrap()
        };
        let local = v2::Builder::new(v2::Version::Two | v2::Command::Local, 0)
            .build()
            .unwrap();
        let cases: [(Vec<u8>, Option<&str>); 6] = [
            (
                b"PROXY TCP4 192.0.2.7 10.0.0.1 50000 443\r\n".to_vec(),
                Some("192.0.2.7"),
            ),
            (
                b"PROXY TCP6 2001:db8::7 2001:db8::1 50000 443\r\n".to_vec(),
                Some("2001:db8::7"),
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (
                v2_of((("192.0.2.7", 50000), ("10.0.0.1", 443))),
                Some("192.0.2.7"),
            ),
            (
                v2_of((("2001:db8::7", 50000), ("2001:db8::1", 443))),
                Some("2001:db8::7"),
            ),
            (local, None),
        ];
        for (header, expected) in cases {
            let all = [&header[..], b"PRI * HTTP/2.0"].concat();
            let (heard, read) = hear(&all).await;
            let expected = expected.map(|text| text.parse().unwrap());
            assert_eq!(heard.unwrap(), expected);
            assert_eq!(read, header.len(), "what follows is the caller's");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_introduction_is_none() {
        let mut endless = b"PROXY TCP4 ".to_vec();
        endless.resize(10_000, b'1');
        let huge = [SIGNATURE_V2, &[0x21, 0x11, 0xff, 0xff], &vec![0; 70_000]].concat();
        for bytes in [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            b"GET / HTTP/1.1\r\nHost: cloud\r\n\r\n".to_vec(),
            b"PROXY TCP4 not-an-address 10.0.0.1 1 2\r\n".to_vec(),
            endless,
            huge,
        ] {
            let (heard, read) = hear(&bytes).await;
            assert!(matches!(heard, Err(NoIntroduction::NotProxyProtocol)));
            assert!(read <= LONGEST_V1, "{read}");
        }
        assert!(matches!(
            hear(b"PROXY ").await.0,
            Err(NoIntroduction::Ended(_))
        ));
        let (mut ours, _theirs) = tokio::io::duplex(64);
        assert!(matches!(
            introduced(&mut ours).await,
            Err(NoIntroduction::Silent)
        ));
    }

    #[test]
    fn only_what_a_trusted_proxy_added_itself_is_believed() {
        let trusted = Trusted::new(vec!["10.0.0.0/8".parse().unwrap()]);
        let behind = InFront::Proxy(trusted.clone());
        let asked = |in_front: &InFront, from: &str, lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("x-forwarded-for", line.parse().unwrap());
            }
            let peer = Peer(from.parse().unwrap());
            caller(in_front, peer, &headers).0.to_string()
        };
        for (lines, expected) in [
            (&["1.1.1.1, 192.0.2.7"][..], "192.0.2.7"),
            (&["1.1.1.1", "192.0.2.7"], "192.0.2.7"),
            (&["192.0.2.7, 10.0.0.9, 10.0.0.8"], "192.0.2.7"),
            (&["192.0.2.7:50123"], "192.0.2.7"),
            (&["[2001:db8::7]:50123"], "2001:db8::7"),
            (&["[2001:db8::7]"], "2001:db8::7"),
            (&["1.1.1.1, nonsense"], "10.0.0.1"),
            (&["10.0.0.9"], "10.0.0.1"),
            (&[], "10.0.0.1"),
        ] {
            assert_eq!(asked(&behind, "10.0.0.1", lines), expected, "{lines:?}");
        }
        // Whoever else writes such a line is taken for what he is.
        assert_eq!(asked(&behind, "192.0.2.9", &["1.1.1.1"]), "192.0.2.9");
        for other in [InFront::Nothing, InFront::Balancer(trusted)] {
            assert_eq!(asked(&other, "10.0.0.1", &["1.1.1.1"]), "10.0.0.1");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_said_before_a_trusted_proxy_adds_its_line_changes_nothing(said in "[ -~]{0,200}") {
            let behind = InFront::Proxy(Trusted::this_machine());
            let mut headers = HeaderMap::new();
            headers.insert("x-forwarded-for", format!("{said}, 192.0.2.7").parse().unwrap());
            let peer = Peer([127, 0, 0, 1].into());
            prop_assert_eq!(caller(&behind, peer, &headers), Peer([192, 0, 2, 7].into()));
        }

        #[test]
        fn no_bytes_make_the_parser_fail(bytes in prop::collection::vec(any::<u8>(), 0..300), signed in any::<bool>()) {
            let bytes = if signed { [SIGNATURE_V2, &bytes].concat() } else { bytes };
            let _ = parse(&bytes);
        }
    }
}
