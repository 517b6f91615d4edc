//! Everything that is logged at the lowest level, by every crate, while the product works and fails: no secret and no name in it.

use std::io::Write;
use std::sync::{Arc, Mutex};

use presence_bridge::cloud::store::ConnectionKind;
use presence_bridge::simulator::{Fault, FaultParams, Scope};
use tracing_subscriber::EnvFilter;

use crate::support::stage::{Stage, quick, until, upns};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn nothing_secret_and_nobody_s_name_is_logged_at_any_level() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new("trace"))
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .init();
    let stage = Stage::new(quick()).await;
    let tenant = stage
        .tenant_by("contoso.example", 5, ConnectionKind::ServiceAccount)
        .await;
    let refresh_token = tenant.mint_refresh_token(stage.client_id(), &upns(&tenant)[0]);
    let code = stage.invite(tenant.id()).await.unwrap();
    let mut names = upns(&tenant);
    names.push("nobody@contoso.example".into());
    let suite = stage.watching(&tenant, "a", names.clone()).await;
    until("somebody is held", || suite.holds(&names[0]) == "Available").await;
    for name in ["garbage-json", "forbidden", "server-error", "gateway-html"] {
        let fault = Fault::parse(name, &FaultParams::default()).unwrap();
        let before = stage.presence_requests(&tenant);
        stage.microsoft.set_fault(fault, Scope::All, Some(1));
        tenant.set_status_message(&names[0], Some("gone fishing in Norway"));
        until("it has been asked again", || {
            stage.presence_requests(&tenant) > before
        })
        .await;
        // A refusal makes the cloud rest; the operator has it tried again.
        stage
            .connect(&tenant, ConnectionKind::ServiceAccount)
            .await
            .unwrap();
    }
    let text = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(
        text.contains("TRACE") && text.contains("a suite opened a stream"),
        "the log is there"
    );
    let secret = std::fs::read_to_string(stage.folder().join("client-secret")).unwrap();
    let mut forbidden = vec![
        secret,
        refresh_token,
        code.expose().to_owned(),
        "eyJ".into(),
        "fishing".into(),
    ];
    forbidden.extend(names);
    for planted in forbidden {
        if let Some(at) = text.to_lowercase().find(&planted.to_lowercase()) {
            let line = text[..at].rfind('\n').map_or(0, |n| n + 1);
            let end = text[at..].find('\n').map_or(text.len(), |n| at + n);
            panic!(
                "a planted text is in the log: {}",
                &text[line..end.min(line + 400)]
            );
        }
    }
}
