//! The way to the cloud, and what to tell a person when there is none.

use std::path::PathBuf;
use std::time::Duration;

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Status};
use url::{Host, Url};

use crate::model::Timestamp;

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// A silent connection is asked for a sign of life this often, and given up without an answer.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_ANSWER: Duration = Duration::from_secs(10);

/// Where the cloud is and how its certificate is checked.
#[derive(Debug, Clone)]
pub struct CloudAddress {
    /// Its URL.
    pub url: Url,
    /// Certificates to trust instead of those of the operating system, PEM.
    pub ca_file: Option<PathBuf>,
}

/// Why there is no connection, in words for the person who has to mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}. {remedy}")]
pub struct Explained {
    /// What happened.
    pub what: String,
    /// What to do.
    pub remedy: String,
    /// Whether trying again can help.
    pub retry: bool,
}

fn explained(what: impl Into<String>, remedy: &str, retry: bool) -> Explained {
    Explained {
        what: what.into(),
        remedy: remedy.into(),
        retry,
    }
}

impl CloudAddress {
    /// A channel that connects when it is used. Plain text only towards this machine.
    pub fn channel(&self) -> Result<Channel, Explained> {
        const FORM: &str = "Write it like https://presence.example.com:8443.";
        let endpoint = Endpoint::from_shared(self.url.to_string())
            .map_err(|_| explained("The address of the cloud is not well-formed", FORM, false))?
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_ANSWER)
            .keep_alive_while_idle(true)
            .http2_max_header_list_size(64 << 10)
            // What is under way is old when it is read; what waits in the cloud is replaced by the newest.
            .initial_stream_window_size(256 << 10)
            .initial_connection_window_size(512 << 10);
        let endpoint = match self.url.scheme() {
            "https" => endpoint.tls_config(self.tls()?).map_err(|e| {
                explained(
                    format!("TLS cannot be set up: {}", words(&e)),
                    "Check ca_file.",
                    false,
                )
            })?,
            "http" if self.is_loopback() => endpoint,
            "http" => {
                return Err(explained(
                    "Plain http is only allowed towards this machine itself",
                    "Use https://, or a tunnel that ends on this machine.",
                    false,
                ));
            }
            _ => {
                return Err(explained(
                    "The address of the cloud is not well-formed",
                    FORM,
                    false,
                ));
            }
        };
        Ok(endpoint.connect_lazy())
    }

    fn tls(&self) -> Result<ClientTlsConfig, Explained> {
        let Some(path) = &self.ca_file else {
            return Ok(ClientTlsConfig::new().with_native_roots());
        };
        let pem = std::fs::read(path).map_err(|e| {
            explained(
                format!("{} cannot be read: {e}", path.display()),
                "Check ca_file.",
                false,
            )
        })?;
        Ok(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)))
    }

    fn is_loopback(&self) -> bool {
        match self.url.host() {
            Some(Host::Ipv4(ip)) => ip.is_loopback(),
            Some(Host::Ipv6(ip)) => ip.is_loopback(),
            Some(Host::Domain(name)) => name == "localhost",
            None => false,
        }
    }
}

/// An error and its causes, without repeating what a cause already said.
fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// How far our clock may be from the server's before it is named as the cause. The cloud allows half a minute.
const CLOCK_MAY_DIFFER: Duration = Duration::from_secs(25);

/// By how much our clock is off, if the answer tells the time of its server and that matters.
fn clock_off(status: &Status, now: Timestamp) -> Option<String> {
    let date = status.metadata().get("date")?.to_str().ok()?;
    let told = httpdate::parse_http_date(date).ok()?;
    let told = told.duration_since(std::time::UNIX_EPOCH).ok()?;
    let told = Timestamp::from_secs(i64::try_from(told.as_secs()).ok()?);
    let (ahead, behind) = (told.until(now), now.until(told));
    if ahead.max(behind) <= CLOCK_MAY_DIFFER {
        return None;
    }
    let (off, way) = if ahead > behind {
        (ahead, "ahead of")
    } else {
        (behind, "behind")
    };
    Some(format!(
        "The clock of this machine is {} seconds {way} the cloud's: set it right.",
        off.as_secs()
    ))
}

/// What a refused call means for the person at the keyboard. However final it sounds, trying again may help: what stands between us
/// and the cloud refuses calls, too. Only a stream's `go_away` is believed to be final.
pub fn explain(status: &Status, now: Timestamp) -> Explained {
    let said = status.message();
    let all = format!("{said} {}", words(status)).to_lowercase();
    let never_arrived = std::error::Error::source(status).is_some();
    match status.code() {
        _ if never_arrived && (all.contains("dns") || all.contains("lookup")) => explained(
            "The name of the cloud cannot be resolved",
            "Check the address, and the name service of this machine.",
            true,
        ),
        _ if never_arrived && all.contains("refused") => explained(
            "Nothing answers at the cloud's address",
            "Check the address and the port, and whether a firewall is in between.",
            true,
        ),
        _ if never_arrived
            && (all.contains("certificate")
                || all.contains("tls")
                || all.contains("handshake")) =>
        {
            explained(
                "The cloud's certificate is not trusted",
                "If your network inspects TLS or the cloud has a private certificate, name its authority in ca_file.",
                true,
            )
        }
        _ if all.contains("compression flag") => explained(
            "What answers at this address is not the place where suites connect",
            "Check the port: it is that of gRPC, not that of the pages.",
            true,
        ),
        _ if never_arrived && all.contains("invalidcontenttype") => explained(
            "The server at this address does not speak TLS",
            "Check the port; or, towards this machine itself, begin the address with http://.",
            true,
        ),
        _ if never_arrived && (all.contains("body") || all.contains("h2 protocol")) => explained(
            "The connection to the cloud broke",
            "Nothing to do: the agent reconnects by itself.",
            true,
        ),
        _ if never_arrived => explained(
            format!("The connection to the cloud failed: {}", words(status)),
            "Check the network; the agent keeps trying.",
            true,
        ),
        Code::Unauthenticated => explained(
            "The cloud does not accept this suite's credential",
            &clock_off(status, now).unwrap_or_else(|| {
                "Check that the clock of this machine is right. If it is, the suite was revoked: enrol it again.".into()
            }),
            true,
        ),
        Code::PermissionDenied => explained(
            format!("The cloud refuses: {said}"),
            "If a proxy or a firewall is in between, check that it lets this connection through; else enrol the suite again. The agent keeps trying.",
            true,
        ),
        Code::NotFound => explained(
            format!("The cloud says: {said}"),
            "Check the address; if it is right, ask who administers Microsoft 365 in your organisation to connect it again. The agent keeps trying.",
            true,
        ),
        Code::Unimplemented => explained(
            "The server at this address is not presence-cloud, or older than this agent",
            "Check the address.",
            true,
        ),
        Code::InvalidArgument => explained(
            format!("The cloud did not understand: {said}"),
            "Update the agent.",
            true,
        ),
        Code::ResourceExhausted => explained(
            format!("The cloud limits us: {said}"),
            "The agent tries again.",
            true,
        ),
        _ => explained(
            format!("The cloud says: {said}"),
            "The agent tries again.",
            true,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at() -> Timestamp {
        Timestamp::from_secs(0)
    }

    fn address(url: &str) -> CloudAddress {
        CloudAddress {
            url: url.parse().unwrap(),
            ca_file: None,
        }
    }

    #[tokio::test]
    async fn plain_text_leaves_this_machine_never() {
        for fine in [
            "http://127.0.0.1:1",
            "http://localhost:1",
            "http://[::1]:1",
            "https://cloud.example",
        ] {
            address(fine).channel().unwrap();
        }
        for bad in ["http://cloud.example", "http://10.0.0.1", "ftp://127.0.0.1"] {
            assert!(!address(bad).channel().unwrap_err().retry, "{bad}");
        }
    }

    #[tokio::test]
    async fn a_closed_port_is_explained() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        drop(socket);
        let channel = address(&format!("http://127.0.0.1:{port}"))
            .channel()
            .unwrap();
        let mut client =
            crate::wire::v1::presence_service_client::PresenceServiceClient::new(channel);
        let status = client
            .get_presence(crate::wire::v1::GetPresenceRequest::default())
            .await
            .unwrap_err();
        let explained = explain(&status, at());
        assert!(
            explained.what.contains("Nothing answers") && explained.retry,
            "{explained}"
        );
    }

    /// A server with a certificate of a private authority, and that authority.
    async fn private_cloud() -> (tokio::task::JoinSet<()>, Url, tempfile::NamedTempFile) {
        use std::io::Write as _;
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let mut authority = tempfile::NamedTempFile::new().unwrap();
        authority.write_all(made.cert.pem().as_bytes()).unwrap();
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let mut config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        // Answers every call with "not found".
        let service = axum::Router::new().fallback(|| async {
            [
                ("content-type", "application/grpc"),
                ("grpc-status", "5"),
                ("grpc-message", "reached"),
            ]
        });
        let mut serving = tokio::task::JoinSet::new();
        serving.spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let Ok(stream) = acceptor.accept(socket).await else {
                    continue;
                };
                let service = hyper_util::service::TowerToHyperService::new(service.clone());
                let _ =
                    hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
                        .serve_connection(hyper_util::rt::TokioIo::new(stream), service)
                        .await;
            }
        });
        let url = format!("https://localhost:{port}").parse().unwrap();
        (serving, url, authority)
    }

    async fn call(address: &CloudAddress) -> Explained {
        let channel = address.channel().unwrap();
        let mut client =
            crate::wire::v1::presence_service_client::PresenceServiceClient::new(channel);
        let request = crate::wire::v1::GetPresenceRequest::default();
        explain(&client.get_presence(request).await.unwrap_err(), at())
    }

    #[tokio::test]
    async fn a_private_authority_is_trusted_only_when_it_is_named() {
        let (_serving, url, authority) = private_cloud().await;
        let mut address = CloudAddress { url, ca_file: None };
        let why = call(&address).await;
        assert!(
            why.what.contains("not trusted") && why.remedy.contains("ca_file"),
            "{why}"
        );
        address.ca_file = Some(authority.path().into());
        assert!(call(&address).await.what.contains("reached"));
        address.ca_file = Some("/nowhere/ca.pem".into());
        assert!(
            address
                .channel()
                .unwrap_err()
                .what
                .contains("/nowhere/ca.pem")
        );
    }

    #[test]
    fn a_name_that_does_not_resolve_is_explained() {
        // As hyper says it. Asking a real name service would make the test depend on the network.
        let error = "dns error: failed to lookup address information: Name or service not known";
        let why = explain(&Status::from_error(error.into()), at());
        assert!(
            why.what.contains("cannot be resolved") && why.retry,
            "{why}"
        );
    }

    #[test]
    fn no_refused_call_is_final_but_a_person_is_told_what_to_do() {
        for (status, remedy) in [
            (Status::permission_denied("HTTP status 403"), "firewall"),
            (Status::not_found("disconnected"), "Microsoft 365"),
            (Status::unauthenticated("no"), "clock"),
        ] {
            let why = explain(&status, at());
            assert!(why.retry && why.remedy.contains(remedy), "{why}");
        }
    }

    #[test]
    fn a_clock_that_is_off_is_named() {
        let refused = |date: &str| {
            let mut status = Status::unauthenticated("no");
            status.metadata_mut().insert("date", date.parse().unwrap());
            explain(&status, Timestamp::from_secs(784_111_777)).remedy
        };
        assert!(refused("Sun, 06 Nov 1994 08:49:30 GMT").contains("revoked"));
        assert!(refused("Sun, 06 Nov 1994 08:47:37 GMT").contains("120 seconds ahead of"));
        assert!(refused("Sun, 06 Nov 1994 08:59:37 GMT").contains("600 seconds behind"));
        assert!(refused("yesterday").contains("revoked"));
    }
}
