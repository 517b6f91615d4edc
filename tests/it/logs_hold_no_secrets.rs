//! Everything that is logged at the lowest level, by every crate, while the product works and fails, the metrics and the spans: no
//! secret and no name in it.

use presence_bridge::cloud::store::ConnectionKind;
use presence_bridge::simulator::{Fault, FaultParams, Scope, TenantSpec};
use presence_bridge::telemetry::{self, LogFormat};

use crate::support::collector::Collector;
use crate::support::log::Log;
use crate::support::stage::{Stage, quick, until, upns};
use crate::support::visitor::{Page, Visitor};

#[tokio::test]
async fn nothing_secret_and_nobody_s_name_is_logged_at_any_level() {
    let log = Log::default();
    let writer = log.clone();
    let collector = Collector::start().await;
    let (subscriber, traces) = telemetry::subscriber(
        LogFormat::Text,
        "trace",
        false,
        move || writer.clone(),
        Some(&collector.settings),
    )
    .unwrap();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let mut stage = Stage::new(quick()).await;
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
    let pages = through_the_pages(&stage).await;

    let metrics = stage.cloud().unwrap().metrics();
    assert!(metrics.contains("presence_cloud_http_requests_total"));
    drop(suite);
    stage.world.stop_cloud().await;
    traces.stop().await;
    let spans = collector.taken.text();
    assert!(spans.contains("microsoft.request") && spans.contains("token_renewal"));
    let text = log.text();
    assert!(
        text.contains("TRACE")
            && text.contains("a suite opened a stream")
            && text.contains("a tenant was connected"),
        "the log is there"
    );
    let client_secret = std::fs::read_to_string(stage.folder().join("client-secret")).unwrap();
    // What Microsoft hands out and our own credential may be nowhere: not in the log, not in the database, not on a page.
    let mut tokens = stage.microsoft.handed_out();
    assert!(tokens.len() > 10, "{}", tokens.len());
    tokens.extend([
        client_secret,
        refresh_token,
        // How headers of JWTs begin; shorter, it would be found by chance in what is random.
        "eyJhbGciOi".into(),
        "eyJ0eXAiOi".into(),
        "gone fishing in Norway".into(),
    ]);
    // What belongs to one browser, one suite or one person is on that page, and nowhere else.
    let mut private = pages.secrets;
    private.extend(names);
    private.push(code.expose().to_owned());
    private.extend(
        [
            "Ann Lee",
            "ann.lee@contoso.example",
            "boss@contoso.example",
            "Contoso Ltd,",
        ]
        .map(str::to_owned),
    );
    let database = database(stage.folder());
    assert!(database.contains("SQLite format 3") && database.contains("northwind.example"));
    for (what, output, forbidden) in [
        (
            "the log",
            &text,
            [tokens.as_slice(), private.as_slice()].concat(),
        ),
        (
            "the database",
            &database,
            [tokens.as_slice(), private.as_slice()].concat(),
        ),
        ("a page", &pages.shown, tokens.clone()),
        (
            "the metrics",
            &metrics,
            [tokens.as_slice(), private.as_slice()].concat(),
        ),
        (
            "a span",
            &spans,
            [tokens.as_slice(), private.as_slice()].concat(),
        ),
    ] {
        let lower = output.to_lowercase();
        for planted in forbidden {
            if let Some(at) = lower.find(&planted.to_lowercase()) {
                let begin = lower[..at].rfind('\n').map_or(0, |n| n + 1);
                let end = lower[at..].find('\n').map_or(lower.len(), |n| at + n);
                panic!(
                    "a planted text is in {what}: {}",
                    lower.get(begin..end.min(begin + 400)).unwrap_or_default()
                );
            }
        }
    }
}

/// The files of the database, as text as far as there is any.
fn database(folder: &std::path::Path) -> String {
    let mut text = String::new();
    for file in ["cloud.db", "cloud.db-wal"] {
        if let Ok(bytes) = std::fs::read(folder.join(file)) {
            text.push_str(&String::from_utf8_lossy(&bytes));
        }
    }
    text
}

struct Pages {
    /// Cookies, states, proofs, links and codes.
    secrets: Vec<String>,
    /// All pages, one after the other.
    shown: String,
}

/// Everything customers do, well and badly.
async fn through_the_pages(stage: &Stage) -> Pages {
    let northwind = stage.microsoft.add_tenant(TenantSpec {
        domain: "northwind.example".into(),
        name: "Northwind".into(),
        people: 3,
        ..TenantSpec::default()
    });
    let ann = upns(&northwind)[0].clone();
    let visitor = Visitor::new(stage);
    let mut pages = Pages {
        secrets: Vec::new(),
        shown: String::new(),
    };
    visitor.begin("northwind.example", "service-account").await;
    pages.note(&visitor, &visitor.get("/authorize").await);
    // Refused, declined, forged.
    for (name, grant) in [
        ("aadsts:53003", "authorize"),
        ("aadsts:70008", "authorization_code"),
    ] {
        let params = FaultParams {
            grant: Some(grant.into()),
            ..FaultParams::default()
        };
        stage
            .microsoft
            .set_fault(Fault::parse(name, &params).unwrap(), Scope::All, None);
        visitor.through_microsoft(&ann).await;
        stage.microsoft.clear_faults(None, None);
        pages.note(&visitor, &visitor.get("/outcome").await);
    }
    let away = visitor.authorize().await;
    pages.secrets.push(query(&away, "state"));
    pages.secrets.push(query(&away, "nonce"));
    let back = visitor.at_microsoft(&away, &ann, "accept").await;
    pages.secrets.push(query(&back, "code"));
    visitor.get(&back).await;
    pages.note(&visitor, &visitor.get("/authorize").await);
    let done = visitor.post("/complete", &[]).await;
    assert_eq!(done.status, 200);
    for (before, length) in [("/s/", 43), ("id=\"code\">", 24)] {
        let (_, rest) = done.body.split_once(before).unwrap();
        pages.secrets.push(rest[..length].to_owned());
    }
    pages.note(&visitor, &done);
    pages.note(&visitor, &visitor.open("/status").await);
    let status = visitor.post("/status/link", &[]).await;
    pages.note(&visitor, &status);
    let link = status.body.split_once("/s/").unwrap().1[..43].to_owned();
    pages.secrets.push(link.clone());
    visitor.post("/status/again", &[]).await;
    visitor.through_microsoft(&ann).await;
    pages.note(&visitor, &visitor.get("/authorize").await);
    pages.note(&visitor, &visitor.post("/complete", &[]).await);
    pages.note(
        &visitor,
        &Visitor::new(stage).get("/callback?state=a&code=b").await,
    );
    // Opened more often than an address may.
    let many = Visitor::new(stage);
    while many.get(&format!("/s/{link}")).await.status != 429 {}
    pages.secrets.extend(many.cookies().into_values());
    pages
}

fn query(url: &str, name: &str) -> String {
    let url = url::Url::parse(url).unwrap();
    let found = url.query_pairs().find(|(n, _)| n == name);
    found.unwrap().1.into_owned()
}

impl Pages {
    fn note(&mut self, visitor: &Visitor, page: &Page) {
        self.shown.push_str(&page.body);
        self.secrets.extend(visitor.cookies().into_values());
        self.secrets.push(visitor.csrf());
    }
}
