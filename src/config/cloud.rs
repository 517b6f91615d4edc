//! Configuration of presence-cloud. Every key, its meaning, unit and default: `deploy/cloud.example.toml`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;
use uuid::Uuid;

use super::alerts::{self, ReceiverConfig};
use super::listeners::{self, ListenerConfig};
use super::load::{ConfigError, Loader};
use crate::cloud::alerts::rules::Limits;
use crate::cloud::directory::LookupPace;
use crate::cloud::health::Patience;
use crate::cloud::mail::SmtpConfig;
use crate::cloud::poller::PollSettings;
use crate::cloud::poller::budget::Limit;
use crate::cloud::rpc::StreamSettings;
use crate::microsoft::graph::MAX_IDS;
use crate::model::Timestamp;
use crate::telemetry::{LogFormat, TraceSettings};

/// Variables that override the file begin with this.
pub const ENV_PREFIX: &str = "PRESENCE_CLOUD";

/// How this application proves itself to Entra. The secrets stay in their files until they are needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialFiles {
    /// A client secret.
    Secret {
        /// The secret.
        file: PathBuf,
        /// When it ends: it does not tell so itself.
        ends: Option<Timestamp>,
    },
    /// A certificate and its private key, both PEM. Preferred.
    Certificate {
        /// The certificate.
        certificate: PathBuf,
        /// Its private key.
        private_key: PathBuf,
    },
}

/// The web pages: onboarding and the customers' status pages.
#[derive(Debug, Clone)]
pub struct WebConfig {
    /// Where browsers connect.
    pub listener: ListenerConfig,
    /// The same as browsers write it: an origin, for example `https://connect.example.com`.
    pub public_url: Url,
    /// Name of this service on the pages, as registered with Microsoft.
    pub service_name: String,
    /// Who helps: an address or a telephone number, shown on the pages; may be empty.
    pub support: String,
    /// Sign-ins an address may begin per minute.
    pub sign_ins_per_minute: u32,
    /// How long a fresh consent may take to reach all of Microsoft.
    pub consent_propagation: Duration,
    /// Whether an organisation is connected only by who is told to be an administrator of it.
    pub require_directory_roles: bool,
}

/// The operators' listener: pages, admin API and probes.
#[derive(Debug, Clone)]
pub struct OperatorsConfig {
    /// Where operators' browsers, the command line and probes connect.
    pub listener: ListenerConfig,
    /// The same as browsers write it: an origin.
    pub public_url: Url,
    /// The operators' password, hashed. With neither this nor `oidc` nobody signs in to the pages, and only the admin API is there.
    pub password_file: Option<PathBuf>,
    /// The same at an issuer.
    pub oidc: Option<OidcConfig>,
}

/// Operators sign in where an organisation's people sign in: OIDC.
#[derive(Debug, Clone)]
pub struct OidcConfig {
    /// The issuer, letter by letter as it names itself.
    pub issuer: String,
    /// The same as an address.
    pub issuer_url: Url,
    /// Our client id there.
    pub client_id: String,
    /// Our secret there; `None` for a public client.
    pub client_secret_file: Option<PathBuf>,
    /// Certificates to trust besides those of the operating system, PEM.
    pub extra_roots: Option<PathBuf>,
    /// Scopes to ask for besides `openid`.
    pub scopes: Vec<String>,
    /// The claim that holds groups or roles: a text or a list of texts. Dots lead into claims inside of claims.
    pub role_claim: String,
    /// Values of that claim that make an operator.
    pub operators: Vec<String>,
    /// Values of that claim that make a viewer.
    pub viewers: Vec<String>,
}

/// Configuration of presence-cloud.
#[derive(Debug, Clone)]
pub struct CloudConfig {
    /// Root of Entra.
    pub login_url: Url,
    /// Root of Graph, without the version.
    pub graph_url: Url,
    /// Application (client) id of our app registration.
    pub client_id: Uuid,
    /// How we prove to be that application; each may be used, so that one can replace another while both are valid.
    pub credentials: Vec<CredentialFiles>,
    /// Certificates to trust besides those of the operating system, PEM.
    pub extra_roots: Option<PathBuf>,
    /// The database file.
    pub database: PathBuf,
    /// File of the key-encryption key.
    pub key_file: PathBuf,
    /// Where suites connect.
    pub grpc: ListenerConfig,
    /// Where suites connect, as they write it.
    pub grpc_public_url: Url,
    /// `aud` of the suites' JWTs.
    pub audience: String,
    /// Whether clients may ask for the contract.
    pub reflection: bool,
    /// The web pages; `None`: there are none.
    pub web: Option<WebConfig>,
    /// The operators' listener.
    pub operators: OperatorsConfig,
    /// From which point on something is worth an alert.
    pub alerts: Limits,
    /// Who is told about alerts.
    pub receivers: Vec<ReceiverConfig>,
    /// The mail server; `None`: no mail is sent.
    pub smtp: Option<SmtpConfig>,
    /// How Microsoft is read.
    pub poll: PollSettings,
    /// How streams behave.
    pub streams: StreamSettings,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which log lines are written.
    pub log_filter: String,
    /// Where traces go; `None`: nowhere.
    pub traces: Option<TraceSettings>,
}

pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// Whether two listeners could not be at these addresses at the same time. Port 0 is any that is free.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let everywhere = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || everywhere)
}

/// An address as browsers write it, without a path.
fn must_be_origin(loader: &mut Loader, key: &str, url: &Url) {
    if url.scheme() != "https" && !is_loopback(url) {
        loader.problem(
            key,
            "must begin with https:// (plain http:// is only allowed towards this machine itself)",
        );
    }
    if url.path() != "/" || url.query().is_some() {
        loader.problem(
            key,
            "must be an origin: scheme, host and port, without a path",
        );
    }
}

/// A listener on this machine, if nothing else is said.
fn listener_or(
    loader: &mut Loader,
    section: &str,
    port: u16,
    may_be_balanced: bool,
) -> ListenerConfig {
    let default = SocketAddr::from(([127, 0, 0, 1], port));
    listeners::listener(loader, section, Some(default), may_be_balanced)
        .unwrap_or_else(|| ListenerConfig::plain(default))
}

/// The section of the web pages. Without `listen` there are none, as before there were any.
fn web(loader: &mut Loader) -> Option<WebConfig> {
    let listener = listeners::listener(loader, "web", None, true);
    let own = listener.as_ref().map_or_else(
        || "http://localhost".into(),
        |own| format!("{}://{}", own.scheme(), own.listen),
    );
    let mut s = loader.section("web");
    let public_url = s.url_or("public_url", &own);
    let service_name = s.text_or("service_name", "Presence Bridge");
    let support = s.text_or("support", "");
    let sign_ins = s.int_or("sign_ins_per_minute", 20, 1..=10_000);
    let consent_propagation = s.duration_or(
        "consent_propagation",
        Duration::from_mins(5),
        Duration::ZERO..=Duration::from_hours(1),
    );
    let require_directory_roles = s.bool_or("require_directory_roles", true);
    let listener = listener?;
    must_be_origin(loader, "web.public_url", &public_url);
    Some(WebConfig {
        listener,
        public_url,
        service_name,
        support,
        sign_ins_per_minute: u32::try_from(sign_ins).unwrap_or(20),
        consent_propagation,
        require_directory_roles,
    })
}

/// The section of the traces. Without `otlp_endpoint` there are none.
fn traces(loader: &mut Loader) -> Option<TraceSettings> {
    let mut s = loader.section("telemetry");
    let endpoint = s.url("otlp_endpoint");
    let sample_ratio = s.float_or("sample_ratio", 1.0, 0.0..=1.0);
    let service_name = s.text_or("service_name", "presence-cloud");
    let endpoint = endpoint?;
    let plain = endpoint.scheme() == "http" && is_loopback(&endpoint);
    if endpoint.scheme() != "https" && !plain {
        s.problem(
            "otlp_endpoint",
            "must begin with https:// (plain http:// is only allowed towards this machine itself)",
        );
    }
    Some(TraceSettings {
        endpoint,
        sample_ratio,
        service_name,
    })
}

/// The section of the operators' listener.
fn operators(loader: &mut Loader) -> OperatorsConfig {
    let listener = listener_or(loader, "operators", 8444, false);
    let own = format!("{}://{}", listener.scheme(), listener.listen);
    let mut s = loader.section("operators");
    let public_url = s.url_or("public_url", &own);
    let password_file = s.path("password_file");
    must_be_origin(loader, "operators.public_url", &public_url);
    let mut s = loader.section("oidc");
    let issuer = s.url("issuer").zip(s.text("issuer"));
    let client_id = s.text_or("client_id", "");
    let client_secret_file = s.path("client_secret_file");
    let extra_roots = s.path("extra_roots_file");
    let scopes = s.text_list("scopes");
    let role_claim = s.text_or("role_claim", "groups");
    let operators = s.text_list("operators");
    let viewers = s.text_list("viewers");
    if issuer.is_some() && (client_id.is_empty() || operators.is_empty()) {
        s.problem(
            "issuer",
            "also needs client_id, and in operators the values of role_claim that make an operator",
        );
    }
    if let Some((url, _)) = &issuer
        && url.scheme() != "https"
        && !is_loopback(url)
    {
        s.problem(
            "issuer",
            "must begin with https:// (plain http:// is only allowed towards this machine itself)",
        );
    }
    if issuer.is_some() && password_file.is_some() {
        s.problem(
            "issuer",
            "is one way to sign in and operators.password_file another; choose one",
        );
    }
    OperatorsConfig {
        listener,
        public_url,
        password_file,
        oidc: issuer.map(|(issuer_url, issuer)| OidcConfig {
            issuer,
            issuer_url,
            client_id,
            client_secret_file,
            extra_roots,
            scopes,
            role_claim,
            operators,
            viewers,
        }),
    }
}

impl WebConfig {
    /// Where Microsoft sends browsers back to: to be registered as a redirect address of the platform "Web".
    pub fn redirect_uri(&self) -> Url {
        self.public_url
            .join("/callback")
            .expect("a path joins an origin")
    }
}

impl CloudConfig {
    /// Reads and checks a file. Every problem is reported, not only the first.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        Self::from_loader(Loader::read(path, ENV_PREFIX)?)
    }

    /// Checks what was loaded.
    pub fn from_loader(mut loader: Loader) -> Result<Self, ConfigError> {
        const SECOND: Duration = Duration::from_secs(1);
        const DAY: Duration = Duration::from_hours(24);

        let mut s = loader.section("microsoft");
        let login_url = s.url_or("login_url", "https://login.microsoftonline.com");
        let graph_url = s.url_or("graph_url", "https://graph.microsoft.com");
        let client_id = s.required_uuid("client_id");
        let secret = s.path("client_secret_file");
        let certificate = s.path("certificate_file");
        let private_key = s.path("private_key_file");
        let extra_roots = s.path("extra_roots_file");
        for (key, url) in [
            ("microsoft.login_url", &login_url),
            ("microsoft.graph_url", &graph_url),
        ] {
            if url.scheme() != "https" && !(url.scheme() == "http" && is_loopback(url)) {
                loader.problem(key, "must begin with https:// (plain http:// is only allowed towards this machine itself)");
            }
        }
        let mut credentials = Vec::new();
        let pair = "certificate_file and private_key_file go together";
        match (certificate, private_key) {
            (Some(certificate), Some(private_key)) => {
                credentials.push(CredentialFiles::Certificate {
                    certificate,
                    private_key,
                });
            }
            (None, None) => {}
            _ => loader.problem("microsoft", pair),
        }
        if let Some(file) = secret {
            credentials.push(CredentialFiles::Secret { file, ends: None });
        }
        let further = loader.tables("microsoft", "credential");
        for name in &further {
            let mut s = loader.section(name);
            let secret = s.path("client_secret_file");
            let certificate = s.path("certificate_file");
            let private_key = s.path("private_key_file");
            let ends = s.date("ends");
            match (secret, certificate, private_key) {
                (Some(file), None, None) => {
                    credentials.push(CredentialFiles::Secret { file, ends });
                }
                (None, Some(certificate), Some(private_key)) => {
                    if ends.is_some() {
                        s.problem(
                            "ends",
                            "belongs to a secret; a certificate tells its end itself",
                        );
                    }
                    credentials.push(CredentialFiles::Certificate {
                        certificate,
                        private_key,
                    });
                }
                (None, ..) => loader.problem(
                    name,
                    format!(
                        "needs either client_secret_file, or a certificate with its key: {pair}"
                    ),
                ),
                _ => loader.problem(
                    name,
                    "has a secret and a certificate; write a [[microsoft.credential]] for each",
                ),
            }
        }
        if credentials.is_empty() && further.is_empty() {
            loader.problem(
                "microsoft",
                "needs client_secret_file, or certificate_file together with private_key_file",
            );
        }

        let mut s = loader.section("store");
        let database = s.required_path("database_file");
        let key_file = s.required_path("key_file");

        let grpc = listener_or(&mut loader, "grpc", 8443, true);
        let own = format!("{}://{}", grpc.scheme(), grpc.listen);
        let mut s = loader.section("grpc");
        let audience = s.text_or("audience", "presence-cloud");
        let reflection = s.bool_or("reflection", true);
        let grpc_public_url = s.url_or("public_url", &own);
        let web = web(&mut loader);
        let operators = operators(&mut loader);

        let standard = PollSettings::default();
        let mut s = loader.section("poll");
        let interval = s.duration_or(
            "interval",
            standard.interval,
            Duration::from_millis(100)..=DAY,
        );
        let share = s.float_or("share", 0.6, 0.01..=1.0);
        let per_tenant = s.int_or(
            "presence_requests_per_30s",
            Limit::PRESENCE.published.into(),
            4..=1_000_000,
        );
        let units = s.int_or(
            "user_units_per_10s",
            Limit::USERS.published.into(),
            20..=1_000_000,
        );
        let application = s.int_or(
            "application_requests_per_10s",
            Limit::APPLICATION.published.into(),
            20..=10_000_000,
        );
        let most = i64::try_from(MAX_IDS).unwrap_or(i64::MAX);
        let batch = s.int_or("batch", most, 1..=most);
        let lookup = LookupPace {
            found: s.duration_or("look_up_again", standard.lookup.found, SECOND..=DAY * 30),
            not_found: s.duration_or(
                "look_up_missing_again",
                standard.lookup.not_found,
                SECOND..=DAY,
            ),
        };
        let patience = Patience {
            confirm_after: s.duration_or(
                "confirm_refusal_after",
                standard.patience.confirm_after,
                SECOND..=DAY,
            ),
            probe_every: s.duration_or(
                "probe_refused_every",
                standard.patience.probe_every,
                SECOND..=DAY,
            ),
            our_fault: s.duration_or(
                "rest_after_own_fault",
                standard.patience.our_fault,
                SECOND..=DAY,
            ),
        };
        let limit = |of: Limit, published: i64| Limit {
            published: u32::try_from(published).unwrap_or(of.published),
            share,
            ..of
        };
        let poll = PollSettings {
            interval,
            presence: limit(Limit::PRESENCE, per_tenant),
            users: limit(Limit::USERS, units),
            application: limit(Limit::APPLICATION, application),
            batch: usize::try_from(batch).unwrap_or(MAX_IDS),
            lookup,
            patience,
        };

        let smtp = alerts::smtp(&mut loader);
        let has_smtp = smtp.is_some();
        let (alerts, receivers) = alerts::alerts(&mut loader, has_smtp);

        let standard = StreamSettings::default();
        let mut s = loader.section("streams");
        let streams = StreamSettings {
            heartbeat: s.duration_or(
                "heartbeat",
                standard.heartbeat,
                Duration::from_millis(100)..=DAY,
            ),
            maximum_age: s.duration_or("maximum_age", standard.maximum_age, SECOND..=DAY * 30),
            reconnect_spread: s.duration_or(
                "reconnect_spread",
                standard.reconnect_spread,
                Duration::ZERO..=DAY,
            ),
            stalled: s.duration_or("stalled", standard.stalled, SECOND..=DAY),
        };

        let mut s = loader.section("log");
        let log_format = s.one_of(
            "format",
            &[("text", LogFormat::Text), ("json", LogFormat::Json)],
            LogFormat::Text,
        );
        let log_filter = s.log_filter_or("filter", "info");

        let traces = traces(&mut loader);

        let listeners = [
            ("grpc.listen", Some(grpc.listen)),
            ("web.listen", web.as_ref().map(|web| web.listener.listen)),
            ("operators.listen", Some(operators.listener.listen)),
        ];
        for (n, (key, listen)) in listeners.iter().enumerate() {
            for (other, taken) in &listeners[..n] {
                if let (Some(listen), Some(taken)) = (listen, taken)
                    && collide(*listen, *taken)
                {
                    loader.problem(
                        key,
                        format!("{listen} is the address of {other} already; each listener needs a port of its own"),
                    );
                }
            }
        }

        loader.finish()?;
        Ok(Self {
            login_url,
            graph_url,
            client_id,
            credentials,
            extra_roots,
            database,
            key_file,
            grpc,
            grpc_public_url,
            audience,
            reflection,
            web,
            operators,
            alerts,
            receivers,
            smtp,
            poll,
            streams,
            log_format,
            log_filter,
            traces,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<CloudConfig, String> {
        let loader =
            Loader::from_text("cloud.toml", text, ENV_PREFIX, []).map_err(|e| e.to_string())?;
        CloudConfig::from_loader(loader).map_err(|e| e.to_string())
    }

    const LEAST: &str = r#"
        [microsoft]
        client_id = "11111111-2222-3333-4444-555555555555"
        client_secret_file = "secret"
        [store]
        database_file = "cloud.db"
        key_file = "kek"
    "#;

    #[test]
    fn little_is_needed_and_the_defaults_are_microsoft_s() {
        let config = parse(LEAST).unwrap();
        assert_eq!(
            config.login_url.as_str(),
            "https://login.microsoftonline.com/"
        );
        assert_eq!(config.poll.interval, Duration::from_secs(5));
        assert_eq!(config.poll.presence.allowed(), 900);
        assert_eq!(config.poll.batch, 650);
    }

    #[test]
    fn the_example_parses() {
        let text = include_str!("../../deploy/cloud.example.toml");
        parse(text).unwrap();
        // With every commented key switched on it parses as well: the comments tell the truth.
        let all: String = text
            .lines()
            .map(|line| match line.strip_prefix("#:") {
                Some(key) => format!("{key}\n"),
                None => format!("{line}\n"),
            })
            .collect();
        assert_ne!(all, text);
        parse(&all).unwrap();
        // The examples that are no defaults parse too.
        let start = text.find("# [[microsoft.credential]]").unwrap();
        let end = text.find("[store]").unwrap();
        let tables = text[start..end].replace("# ", "");
        let more = [&text[..start], &tables, &text[end..]].concat();
        assert_eq!(parse(&more).unwrap().credentials.len(), 3);
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let text = r#"
            [microsoft]
            client_id = "not an id"
            graph_url = "http://graph.example.com"
            [store]
            database_file = "cloud.db"
            [grpc]
            listen = "0.0.0.0:443"
            certificate_file = "c.pem"
            [poll]
            intervall = "5s"
            share = 7.0
        "#;
        let problems = parse(text).unwrap_err();
        for expected in [
            "microsoft.client_id",
            "microsoft.graph_url",
            "client_secret_file",
            "store.key_file",
            "grpc.listen",
            "go together",
            "poll.intervall",
            "poll.share",
        ] {
            assert!(
                problems.contains(expected),
                "{expected} is missing in:\n{problems}"
            );
        }
    }

    #[test]
    fn a_port_that_is_taken_twice_and_a_filter_that_is_none_are_told() {
        for (more, told) in [
            (
                "[web]\nlisten = \"127.0.0.1:8443\"\n",
                "web.listen: 127.0.0.1:8443 is the address of grpc.listen",
            ),
            (
                "[grpc]\nlisten = \"0.0.0.0:9000\"\n[operators]\nlisten = \"127.0.0.1:9000\"\n",
                "operators.listen: 127.0.0.1:9000 is the address of grpc.listen",
            ),
            (
                "[log]\nfilter = \"inof=,,=\"\n",
                "log.filter: \"inof=,,=\" is no filter",
            ),
        ] {
            let refused = parse(&format!("{LEAST}{more}")).unwrap_err();
            assert!(refused.contains(told), "{refused}");
        }
        let fine = "[grpc]\nlisten = \"127.0.0.1:0\"\n[operators]\nlisten = \"127.0.0.1:0\"\n[log]\nfilter = \"info,presence_bridge=debug\"\n";
        parse(&format!("{LEAST}{fine}")).unwrap();
    }

    #[test]
    fn several_credentials_of_ours_may_be_valid_at_once() {
        let with = |more: &str| parse(&LEAST.replace("[store]", &format!("{more}\n[store]")));
        let secret = |file: &str, ends| CredentialFiles::Secret {
            file: file.into(),
            ends,
        };
        let certificate = |name: &str| CredentialFiles::Certificate {
            certificate: format!("{name}.pem").into(),
            private_key: format!("{name}.key").into(),
        };
        let config = with(
            r#"
            certificate_file = "a.pem"
            private_key_file = "a.key"
            [[microsoft.credential]]
            client_secret_file = "next"
            ends = "2027-05-01"
            [[microsoft.credential]]
            certificate_file = "b.pem"
            private_key_file = "b.key"
            "#,
        )
        .unwrap();
        assert_eq!(
            config.credentials,
            [
                certificate("a"),
                secret("secret", None),
                secret("next", Some(Timestamp::from_secs(1_809_129_600))),
                certificate("b"),
            ]
        );
        let problems = with(
            r#"
            certificate_file = "a.pem"
            [[microsoft.credential]]
            certificate_file = "b.pem"
            [[microsoft.credential]]
            client_secret_file = "s"
            private_key_file = "b.key"
            [[microsoft.credential]]
            client_secret_file = "s"
            ends = "soon"
            "#,
        )
        .unwrap_err();
        for expected in [
            "microsoft: certificate_file and private_key_file go together",
            "microsoft.credential[1]: needs either",
            "microsoft.credential[2]: has a secret and a certificate",
            "microsoft.credential[3].ends: \"soon\" is not a date",
        ] {
            assert!(
                problems.contains(expected),
                "{expected} is missing in:\n{problems}"
            );
        }
    }

    #[test]
    fn pages_are_there_when_they_are_asked_for() {
        assert!(parse(LEAST).unwrap().web.is_none());
        let web = |more: &str| {
            parse(&format!(
                "{LEAST}\n[web]\nlisten = \"127.0.0.1:8080\"\n{more}"
            ))
        };
        let config = web("").unwrap().web.unwrap();
        assert_eq!(
            config.redirect_uri().as_str(),
            "http://127.0.0.1:8080/callback"
        );
        web("public_url = \"https://connect.example.com\"\nbehind_proxy = true").unwrap();
        for wrong in [
            "public_url = \"http://connect.example.com\"",
            "public_url = \"https://connect.example.com/presence\"",
            "certificate_file = \"c.pem\"",
        ] {
            assert!(web(wrong).unwrap_err().contains("web"), "{wrong}");
        }
    }

    #[test]
    fn traces_are_off_and_go_over_tls_or_stay_on_this_machine() {
        assert_eq!(parse(LEAST).unwrap().traces, None);
        let telemetry = |more: &str| parse(&format!("{LEAST}\n[telemetry]\n{more}\n"));
        let traces = telemetry("otlp_endpoint = \"http://127.0.0.1:4317\"");
        let traces = traces.unwrap().traces.unwrap();
        assert!((traces.sample_ratio - 1.0).abs() < f64::EPSILON);
        assert_eq!(traces.service_name, "presence-cloud");
        telemetry("otlp_endpoint = \"https://collector.example.com:4317\"").unwrap();
        for wrong in [
            "otlp_endpoint = \"http://collector.example.com:4317\"",
            "otlp_endpoint = \"ftp://127.0.0.1\"",
            "sample_ratio = 1.5",
        ] {
            assert!(
                telemetry(wrong).unwrap_err().contains("telemetry"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn plain_text_is_for_loopback_and_for_proxies() {
        parse(&format!("{LEAST}\n[grpc]\nlisten = \"0.0.0.0:443\"\n")).unwrap_err();
        parse(&format!(
            "{LEAST}\n[grpc]\nlisten = \"0.0.0.0:443\"\nbehind_proxy = true\ntrusted_proxies = [\"10.0.0.7\"]\n"
        ))
        .unwrap();
        parse(&LEAST.replace("[store]", "graph_url = \"http://127.0.0.1:9/\"\n[store]")).unwrap();
    }
}
