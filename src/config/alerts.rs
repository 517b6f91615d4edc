//! Configuration of alerts: from when on, and who is told.

use std::path::PathBuf;
use std::time::Duration;

use lettre::message::Mailbox;
use url::Url;

use super::cloud::is_loopback;
use super::load::{Loader, Section};
use crate::cloud::alerts::rules::{Limits, Severity};
use crate::cloud::mail::{Security, SmtpConfig};
use crate::secret::Secret;

/// One who is told about alerts.
#[derive(Debug, Clone)]
pub struct ReceiverConfig {
    /// Its name, in the log and on the pages.
    pub name: String,
    /// Less serious alerts are not told.
    pub least: Severity,
    /// How it is told.
    pub way: WayConfig,
}

/// How a receiver is told.
#[derive(Debug, Clone)]
pub enum WayConfig {
    /// By POST of JSON, signed.
    Webhook {
        /// Where to. It may hold a secret itself.
        url: WebhookUrl,
        /// The file of the secret that signs.
        secret: PathBuf,
        /// Certificates to trust besides those of the operating system, PEM.
        extra_roots: Option<PathBuf>,
    },
    /// By mail.
    Mail {
        /// To whom.
        to: Vec<Mailbox>,
    },
}

/// The address of a webhook, in the configuration or in a file.
#[derive(Debug, Clone)]
pub enum WebhookUrl {
    /// As it stands in the configuration.
    Given(Secret),
    /// In this file.
    File(PathBuf),
}

/// Whether an address may be used for a webhook: what is wrong with it, without repeating it.
pub fn webhook_url(text: &str) -> Result<Url, &'static str> {
    let url =
        Url::parse(text.trim()).map_err(|_| "is not a URL such as \"https://example.com/hook\"")?;
    let plain = url.scheme() == "http" && is_loopback(&url);
    if url.scheme() != "https" && !plain {
        return Err(
            "must begin with https:// (plain http:// is only allowed towards this machine itself)",
        );
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a user and password");
    }
    Ok(url)
}

fn receiver(s: &mut Section<'_>, way: WayConfig) -> ReceiverConfig {
    let name = s.required_text("name");
    let least = s.one_of("least", &Severity::WORDS, Severity::Warning);
    ReceiverConfig { name, least, way }
}

fn mailboxes(s: &mut Section<'_>, key: &str) -> Vec<Mailbox> {
    let mut found = Vec::new();
    for (n, text) in s.text_list(key).into_iter().enumerate() {
        match text.parse() {
            Ok(mailbox) => found.push(mailbox),
            Err(_) => s.problem(
                key,
                format!(
                    "no. {} is not an address such as \"ops@example.com\"",
                    n + 1
                ),
            ),
        }
    }
    found
}

/// The sections of alerts: limits and receivers.
pub(super) fn alerts(loader: &mut Loader, has_smtp: bool) -> (Limits, Vec<ReceiverConfig>) {
    const SECOND: Duration = Duration::from_secs(1);
    const WEEK: Duration = Duration::from_hours(24 * 7);
    let standard = Limits::default();
    let mut s = loader.section("alerts");
    let missed = s.int_or(
        "missed_readings",
        standard.missed_readings.into(),
        2..=10_000,
    );
    let drop = s.int_or(
        "coverage_drop_percent",
        standard.coverage_drop.into(),
        1..=100,
    );
    let limits = Limits {
        missed_readings: u32::try_from(missed).unwrap_or(standard.missed_readings),
        suite_gone: s.duration_or("suite_gone", standard.suite_gone, SECOND..=WEEK),
        throttled: s.duration_or("throttled", standard.throttled, SECOND..=WEEK),
        coverage_drop: u32::try_from(drop).unwrap_or(standard.coverage_drop),
        suite_slow: s.duration_or("suite_slow", standard.suite_slow, SECOND..=WEEK),
    };
    let mut receivers: Vec<ReceiverConfig> = Vec::new();
    for name in loader.tables("alerts", "webhook") {
        let mut s = loader.section(&name);
        let (given, file) = (s.text("url"), s.path("url_file"));
        if let Some(Err(problem)) = given.as_deref().map(webhook_url) {
            s.problem("url", problem);
        }
        let (secret, extra_roots) = (s.required_path("secret_file"), s.path("extra_roots_file"));
        let url = match (given, file) {
            (Some(url), None) => WebhookUrl::Given(Secret::new(url.trim())),
            (None, Some(file)) => WebhookUrl::File(file),
            (url, _) => {
                s.problem(
                    "url",
                    "is needed, or url_file if the address is a secret; not both",
                );
                WebhookUrl::Given(Secret::new(url.unwrap_or_default()))
            }
        };
        let way = WayConfig::Webhook {
            url,
            secret,
            extra_roots,
        };
        receivers.push(receiver(&mut s, way));
    }
    for name in loader.tables("alerts", "mail") {
        let mut s = loader.section(&name);
        let to = mailboxes(&mut s, "to");
        if to.is_empty() {
            s.problem("to", "needs at least one address");
        }
        if !has_smtp {
            s.problem("to", "needs a mail server: [smtp] host");
        }
        receivers.push(receiver(&mut s, WayConfig::Mail { to }));
    }
    for (n, one) in receivers.iter().enumerate() {
        if receivers.iter().take(n).any(|other| other.name == one.name) {
            loader.problem(
                "alerts",
                format!("there are two receivers with the name \"{}\"", one.name),
            );
        }
    }
    (limits, receivers)
}

/// The section of the mail server. Without `host` there is none.
pub(super) fn smtp(loader: &mut Loader) -> Option<SmtpConfig> {
    let mut s = loader.section("smtp");
    let host = s.text("host");
    let words = [
        ("starttls", Security::StartTls),
        ("tls", Security::Tls),
        ("none", Security::None),
    ];
    let security = s.one_of("security", &words, Security::StartTls);
    let usual = match security {
        Security::StartTls => 587,
        Security::Tls => 465,
        Security::None => 25,
    };
    let port = s.int_or("port", usual, 1..=65_535);
    let user = s.text("username");
    let password = s.path("password_file");
    let from = s.text("from");
    let extra_roots = s.path("extra_roots_file");
    let host = host?;
    let local = host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback());
    if security == Security::None && !local {
        s.problem(
            "security",
            "may be \"none\" only if the mail server is this machine itself (host = \"localhost\")",
        );
    }
    let login = match (user, password) {
        (Some(user), Some(password)) => Some((user, password)),
        (None, None) => None,
        _ => {
            s.problem("username", "and password_file go together");
            None
        }
    };
    let Some(Ok(from)) = from.map(|from| from.parse()) else {
        s.problem("from", "is needed: the address mails come from, for example \"Presence Bridge <presence@example.com>\"");
        return None;
    };
    Some(SmtpConfig {
        host,
        port: u16::try_from(port).unwrap_or_default(),
        security,
        login,
        from,
        extra_roots,
    })
}
