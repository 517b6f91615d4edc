//! Reads every log line of every test that has a stage, at the lowest level, for what must never be in one.

use std::io::Write;
use std::sync::{Mutex, Once};

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, fmt};

static FOUND: Mutex<Vec<(&str, String)>> = Mutex::new(Vec::new());

/// What every part of the product writes. The simulator may name its people.
const READ: &str = "presence_bridge=trace,presence_bridge::simulator=off";

/// What is shown when a test fails.
const SHOWN: &str = "presence_bridge=debug";

/// Shows log lines when a test fails, and reads them all.
pub fn init() {
    static INIT: Once = Once::new();
    INIT.call_once(|| {
        let shown = fmt::layer()
            .with_ansi(false)
            .with_writer(std::io::stderr)
            .with_filter(EnvFilter::new(SHOWN));
        let read = fmt::layer()
            .with_ansi(false)
            .with_writer(|| Reader)
            .with_filter(EnvFilter::new(READ));
        let _ = tracing_subscriber::registry()
            .with(shown)
            .with(read)
            .try_init();
    });
}

/// Fails if anything was found so far.
pub fn nothing_was_found() {
    let found = FOUND.lock().unwrap();
    assert!(found.is_empty(), "in the log: {found:?}");
}

struct Reader;

impl Write for Reader {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let line_text = String::from_utf8_lossy(line);
        if let Some(what) = what_is_secret(&line_text) {
            FOUND.lock().unwrap().push((what, line_text.into_owned()));
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What a line holds that it must not, if anything.
fn what_is_secret(line: &str) -> Option<&'static str> {
    let of_a_word = |c: char| c.is_ascii_alphanumeric() || "_-.@".contains(c);
    line.split(|c| !of_a_word(c)).find_map(|word| {
        let random = word.bytes().any(|b| b.is_ascii_digit())
            && word.bytes().any(|b| b.is_ascii_uppercase())
            && word.bytes().any(|b| b.is_ascii_lowercase());
        let groups: Vec<&str> = word.split('-').collect();
        let of_a_code = |g: &&str| {
            g.len() == 4
                && g.bytes()
                    .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
        };
        if word.contains('@') && word.contains(".example") {
            Some("a UPN")
        } else if word.contains("eyJ") && word.len() > 30 {
            Some("a JWT")
        } else if word.len() >= 43 && random {
            Some("a token, a code or a cookie")
        } else if groups.len() == 5 && groups.iter().all(of_a_code) {
            Some("an enrolment code")
        } else {
            None
        }
    })
}

#[test]
fn what_is_secret_is_recognised_and_what_is_not_is_left_alone() {
    let token = "sXlDlBiVl4FADmbQW_VE1rsRs9hBcV0aPiWDwTxQ8-k";
    for line in [
        "reading ann.lee@contoso.example".to_owned(),
        format!("token=1.{token}"),
        format!("GET /s/{token} HTTP/1.1"),
        "bearer eyJhbGciOiJFZERTQSIsInR5cCI6InN1aXRlK2p3dCJ9.e30.x".to_owned(),
        "code CC1N-8N12-N640-WS52-RN7F".to_owned(),
    ] {
        assert!(what_is_secret(&line).is_some(), "{line}");
    }
    for line in [
        "2026-11-23T09:54:08.066Z  WARN presence_bridge::cloud::poller: reading presence failed",
        "tenant.id=bcf4caa5-8c33-45ab-8b32-df4e86d8ddbf microsoft.code=AADSTS65001",
        "a suite opened a stream client=presence-agent/0.1.0",
    ] {
        assert_eq!(what_is_secret(line), None, "{line}");
    }
}
