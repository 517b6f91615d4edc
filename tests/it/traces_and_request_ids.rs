//! Traces reach a collector and cost nothing where there is none; log lines of a request carry its id.

use std::collections::BTreeSet;

use opentelemetry_proto::tonic::trace::v1::Span;
use presence_bridge::cloud::store::ConnectionKind;
use presence_bridge::simulator::{Fault, FaultParams, Scope};
use presence_bridge::telemetry::{self, LogFormat, TraceSettings, Traces};
use tokio::net::TcpListener;

use crate::support::collector::{Collector, settings};
use crate::support::log::Log;
use crate::support::stage::{Stage, quick, until, upns};
use crate::support::visitor::Visitor;

/// Takes what is logged and traced in this process: nextest gives each test one of its own.
fn listen(format: LogFormat, traces: Option<&TraceSettings>) -> (Log, Traces) {
    let log = Log::default();
    let writer = log.clone();
    let (subscriber, traces) = telemetry::subscriber(
        format,
        "presence_bridge=debug",
        false,
        move || writer.clone(),
        traces,
    )
    .unwrap();
    tracing::subscriber::set_global_default(subscriber)
        .expect("a process of its own: cargo nextest");
    (log, traces)
}

fn attribute(span: &Span, key: &str) -> String {
    let found = span.attributes.iter().find(|pair| pair.key == key);
    found.map_or_else(String::new, |pair| format!("{:?}", pair.value))
}

#[tokio::test]
async fn spans_of_everything_that_matters_reach_the_collector_also_the_last_ones() {
    let collector = Collector::start().await;
    let (_log, traces) = listen(LogFormat::Text, Some(&collector.settings));
    let mut stage = Stage::new(quick()).await;
    let tenant = stage
        .tenant_by("contoso.example", 4, ConnectionKind::ServiceAccount)
        .await;
    let suite = stage.watching_all(&tenant, "a").await;
    suite.until_all_fresh().await;
    let forbidden = Fault::parse("forbidden", &FaultParams::default()).unwrap();
    let before = stage.presence_requests(&tenant);
    stage.microsoft.set_fault(forbidden, Scope::All, Some(1));
    until("it was asked again", || {
        stage.presence_requests(&tenant) > before
    })
    .await;
    assert_eq!(Visitor::new(&stage).get("/").await.status, 200);
    let livez = stage.operators_url().join("/livez").unwrap();
    assert_eq!(reqwest::get(livez).await.unwrap().status(), 200);
    drop(suite);
    stage.world.stop_cloud().await;
    traces.stop().await;

    let spans = collector.taken.spans();
    let names: BTreeSet<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    let wanted = [
        "Watch",
        "Enroll",
        "GET /",
        "GET /livez",
        "sweep",
        "token_renewal",
        "microsoft.request",
    ];
    for name in wanted {
        assert!(names.contains(name), "{name} is not in {names:?}");
    }
    // A request to Microsoft is part of the sweep or the renewal it is made for.
    let of = |name: &'static str| spans.iter().filter(move |span| span.name == name);
    for parent in ["sweep", "token_renewal"] {
        let asked = of(parent).any(|parent| {
            of("microsoft.request").any(|child| {
                child.parent_span_id == parent.span_id && child.trace_id == parent.trace_id
            })
        });
        assert!(asked, "no request to Microsoft within a {parent}");
    }
    let refused =
        of("microsoft.request").find(|span| attribute(span, "http.status").contains("403"));
    let refused = refused.expect("the refused request is there");
    assert_eq!(refused.status.as_ref().unwrap().code, 2, "an error");
    assert!(!attribute(refused, "microsoft.client_request_id").is_empty());
    assert!(
        spans.iter().all(|span| span.events.is_empty()),
        "no log lines"
    );
    let text = collector.taken.text();
    assert!(text.contains("under-test"));
    for name in upns(&tenant) {
        assert!(!text.contains(&name));
    }
}

/// Presence flows, and the service ends, whatever the collector at this port does. Returns what was logged.
async fn presence_flows(port: u16) -> Log {
    let (log, traces) = listen(LogFormat::Text, Some(&settings(port)));
    let mut stage = Stage::new(quick()).await;
    let tenant = stage.tenant("contoso.example", 3).await;
    let suite = stage.watching_all(&tenant, "a").await;
    let upn = upns(&tenant)[0].clone();
    suite.until_all_fresh().await;
    // More spans than may wait, and presence flows on.
    for _ in 0..10_000 {
        let _span = tracing::info_span!(target: "presence_bridge", "sweep").entered();
    }
    for (availability, activity) in [("Busy", "InACall"), ("Away", "Away")] {
        tenant.set_presence(&upn, availability, activity);
        suite.until_holds(&upn, availability).await;
    }
    stage.world.stop_cloud().await;
    let stopped = tokio::time::timeout(std::time::Duration::from_secs(30), traces.stop());
    assert!(stopped.await.is_ok(), "the end waits for nobody");
    log
}

#[tokio::test]
async fn a_collector_that_hangs_stops_nobody() {
    // It takes connections and never says anything.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    presence_flows(silent.local_addr().unwrap().port()).await;
}

#[tokio::test]
async fn a_collector_that_is_away_stops_nobody() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = gone.local_addr().unwrap().port();
    drop(gone);
    let log = presence_flows(port).await.text();
    let told = log
        .matches("the trace collector does not take spans")
        .count();
    assert_eq!(told, 1, "once");
}

async fn get(stage: &Stage, path: &str, id: &str) -> String {
    let url = stage.operators_url().join(path).unwrap();
    let request = reqwest::Client::builder().build().unwrap().get(url);
    let answer = request.header("x-request-id", id).send().await.unwrap();
    answer.headers()["x-request-id"]
        .to_str()
        .unwrap()
        .to_owned()
}

/// What is logged while pages, calls and probes are asked for; ids of a page and of a probe, made here.
async fn logged(format: LogFormat) -> (Log, String, String) {
    let (log, _traces) = listen(format, None);
    let stage = Stage::new(quick()).await;
    let tenant = stage.tenant("contoso.example", 2).await;
    let suite = stage.watching_all(&tenant, "a").await;
    suite.until_all_fresh().await;
    // Machines of ours may bring an id; one that does not look like one is replaced, and browsers may bring none.
    assert_eq!(
        get(&stage, "/livez", "probe-7.of_mine").await,
        "probe-7.of_mine"
    );
    let made = get(&stage, "/livez", "one two").await;
    assert!(uuid::Uuid::try_parse(&made).is_ok(), "{made}");
    let page = Visitor::new(&stage).get("/").await.header("x-request-id");
    assert!(uuid::Uuid::try_parse(&page).is_ok(), "{page}");
    let url = stage.web_url();
    let request = reqwest::Client::builder().build().unwrap().get(url);
    let answer = request.header("x-request-id", "mine").send().await.unwrap();
    assert_ne!(answer.headers()["x-request-id"], "mine");
    // A call to Microsoft that fails names itself.
    let forbidden = Fault::parse("forbidden", &FaultParams::default()).unwrap();
    stage.microsoft.set_fault(forbidden, Scope::All, Some(1));
    until("it was told", || {
        log.text().contains("reading presence failed")
    })
    .await;
    (log, page, made)
}

#[tokio::test]
async fn every_line_of_a_request_carries_its_id_in_json() {
    let (log, page, made) = logged(LogFormat::Json).await;
    let text = log.text();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    let with_id = |id: &str| {
        lines.iter().any(|line| {
            let spans = line["spans"].as_array();
            spans.is_some_and(|spans| spans.iter().any(|span| span["request.id"] == id))
        })
    };
    assert!(with_id(&page) && with_id(&made) && with_id("probe-7.of_mine"));
    // A stream outlives its call and keeps the id.
    let opened = lines
        .iter()
        .find(|line| line["fields"]["message"] == "a suite opened a stream");
    let spans = opened.unwrap()["spans"].as_array().unwrap();
    let stream = spans
        .iter()
        .find_map(|span| span["request.id"].as_str())
        .unwrap();
    assert!(lines.iter().any(|line| {
        line["span"]["name"] == "rpc"
            && line["span"]["request.id"] == stream
            && line["span"]["rpc.method"] == "Watch"
    }));
    let failed = lines
        .iter()
        .find(|line| line["fields"]["message"] == "reading presence failed");
    let failed = &failed.unwrap()["fields"];
    for field in ["microsoft.correlation_id", "microsoft.client_request_id"] {
        assert!(
            failed[field].as_str().is_some_and(|id| id.len() > 8),
            "{field} in {failed}"
        );
    }
}

#[tokio::test]
async fn every_line_of_a_request_carries_its_id_in_text() {
    let (log, page, made) = logged(LogFormat::Text).await;
    let text = log.text();
    for id in [&page, &made, "probe-7.of_mine"] {
        assert!(
            text.lines()
                .any(|line| line.contains(&format!("request.id=\"{id}\""))),
            "{id}"
        );
    }
    assert!(!text.contains("otel."), "that is for collectors");
    let failed = text
        .lines()
        .find(|line| line.contains("reading presence failed"));
    let failed = failed.unwrap();
    assert!(
        failed.contains("microsoft.client_request_id=\""),
        "{failed}"
    );
}
