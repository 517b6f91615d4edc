//! What the service exports is what is written down: in its table, in `docs/metrics.md`, in the dashboard and in the alert rules; and
//! the numbers mean what they say.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use presence_bridge::cloud::metrics::{Kind, Metric, TABLE};
use presence_bridge::cloud::store::ConnectionKind;
use presence_bridge::simulator::{Fault, FaultParams, Scope};
use presence_bridge::wire::v1;
use presence_bridge::world::WorldSettings;

use crate::support::raw::{client, signed};
use crate::support::stage::{Stage, Watcher, quick, until, upns};
use crate::support::visitor::Visitor;

/// What Prometheus would read.
struct Scrape {
    text: String,
    help: BTreeMap<String, String>,
    kinds: BTreeMap<String, String>,
    /// Name, labels, value.
    samples: Vec<(String, BTreeMap<String, String>, f64)>,
}

fn labels(text: &str) -> BTreeMap<String, String> {
    text.split("\",")
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once("=\"").unwrap();
            (name.to_owned(), value.trim_end_matches('"').to_owned())
        })
        .collect()
}

impl Scrape {
    fn read(text: String) -> Self {
        let mut scrape = Self {
            help: BTreeMap::new(),
            kinds: BTreeMap::new(),
            samples: Vec::new(),
            text,
        };
        for line in scrape.text.lines().filter(|line| !line.is_empty()) {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').unwrap();
                let twice = scrape.help.insert(name.into(), help.into());
                assert_eq!(twice, None, "{name}");
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                let twice = scrape.kinds.insert(name.into(), kind.into());
                assert_eq!(twice, None, "{name}");
            } else {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let (name, rest) = series.split_once('{').unwrap_or((series, "}"));
                scrape.samples.push((
                    name.into(),
                    labels(rest.strip_suffix('}').unwrap()),
                    value.parse().unwrap(),
                ));
            }
        }
        scrape
    }

    /// The sum of all samples of a metric with these labels.
    fn sum(&self, name: &str, wanted: &[(&str, &str)]) -> f64 {
        let fits = |labels: &BTreeMap<String, String>| {
            wanted
                .iter()
                .all(|(label, value)| labels.get(*label).is_some_and(|v| v == value))
        };
        let samples = self.samples.iter().filter(|(n, l, _)| n == name && fits(l));
        samples.map(|(.., value)| value).sum()
    }
}

async fn get(stage: &Stage, path: &str) -> (u16, String) {
    let url = stage.operators_url().join(path).unwrap();
    let answer = reqwest::get(url).await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

async fn scrape(stage: &Stage) -> Scrape {
    let (status, text) = get(stage, "/metrics").await;
    assert_eq!(status, 200);
    Scrape::read(text)
}

async fn until_scraped(stage: &Stage, what: &str, so: impl Fn(&Scrape) -> bool) -> Scrape {
    for _ in 0..600 {
        let scrape = scrape(stage).await;
        if so(&scrape) {
            return scrape;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!(
        "it never came about that {what}:\n{}",
        scrape(stage).await.text
    );
}

fn fault(name: &str) -> Fault {
    let params = FaultParams {
        retry_after: Some(1),
        ..FaultParams::default()
    };
    Fault::parse(name, &params).unwrap()
}

/// A world in which a little of everything has happened, and the suite that is connected to it.
async fn eventful() -> (Stage, Watcher) {
    let settings = WorldSettings {
        // The same secret once more, with its end told.
        cloud_keys: vec![(
            "[microsoft.credential]",
            "client_secret_file = \"client-secret\"\nends = \"2199-01-01\"".into(),
        )],
        ..quick()
    };
    let stage = Stage::new(settings).await;
    let contoso = stage
        .tenant_by("contoso.example", 5, ConnectionKind::ServiceAccount)
        .await;
    stage
        .tenant_by("northwind.example", 3, ConnectionKind::Organisation)
        .await;
    let everybody = upns(&contoso);
    let mut names = everybody.clone();
    names.push("nobody@contoso.example".into());
    let identity = stage.enroll(contoso.id(), "raw").await.unwrap();
    let suite = stage.watching(&contoso, "a", names).await;
    suite.until_holds(&everybody[0], "Available").await;
    contoso.set_presence(&everybody[0], "Busy", "InAMeeting");
    suite.until_holds(&everybody[0], "Busy").await;
    // Asked to slow down, and an error of Microsoft's.
    for (name, outcome) in [("throttle", "throttled"), ("unavailable", "server_error")] {
        stage
            .microsoft
            .set_fault(fault(name), Scope::Tenant(contoso.id()), Some(1));
        until_scraped(&stage, "the fault was met", |s| {
            let labels = [("operation", "presences"), ("outcome", outcome)];
            s.sum("presence_cloud_microsoft_requests_total", &labels) >= 1.0
        })
        .await;
    }
    // One answer, one refused enrolment, some pages.
    let question = v1::GetPresenceRequest {
        upns: vec![everybody[1].clone()],
    };
    let mut suites = client(&identity);
    suites
        .get_presence(signed(&identity, question))
        .await
        .unwrap();
    suites
        .get_presence(v1::GetPresenceRequest::default())
        .await
        .unwrap_err();
    let visitor = Visitor::new(&stage);
    assert_eq!(visitor.get("/").await.status, 200);
    assert_eq!(visitor.get("/nowhere").await.status, 404);
    assert_eq!(visitor.get("/s/no-such-link").await.status, 410);
    // A second suite comes and goes.
    let second = stage
        .watching(&contoso, "b", vec![everybody[2].clone()])
        .await;
    second.until_all_fresh().await;
    until_scraped(&stage, "two suites are connected", |s| {
        s.sum("presence_cloud_suites_connected", &[]) >= 2.0
    })
    .await;
    drop(second);
    until_scraped(&stage, "the second suite has left", |s| {
        s.sum(
            "presence_cloud_streams_ended_total",
            &[("reason", "suite_left")],
        ) >= 1.0
    })
    .await;
    (stage, suite)
}

/// The name of a metric in a name that is exported.
fn family(name: &str) -> &str {
    let part = ["_bucket", "_sum", "_count"]
        .iter()
        .find_map(|suffix| name.strip_suffix(suffix));
    part.filter(|name| {
        TABLE
            .iter()
            .any(|m| m.name == *name && matches!(m.kind, Kind::Histogram(_)))
    })
    .unwrap_or(name)
}

fn metric(name: &str) -> &'static Metric {
    let found = TABLE.iter().find(|metric| metric.name == family(name));
    found.unwrap_or_else(|| panic!("{name} is not in the table"))
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository().join(path)).unwrap()
}

/// Debian's promtool, as `make setup` has laid it down, or one that is named.
fn promtool() -> PathBuf {
    let own = repository().join(".tools/prometheus/promtool");
    let path = std::env::var_os("PRESENCE_TEST_PROMTOOL").map_or(own, PathBuf::from);
    assert!(path.exists(), "promtool is missing: make setup");
    path
}

/// Runs promtool below `deploy/`. What it says must be no complaint.
fn judged(arguments: &[&str], input: &str) {
    let mut child = Command::new(promtool())
        .args(arguments)
        .current_dir(repository().join("deploy"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
}

/// All texts under a key, however deep.
fn texts_of(value: &serde_json::Value, key: &str, into: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(map) => {
            for (name, value) in map {
                match value.as_str() {
                    Some(text) if name == key => into.push(text.to_owned()),
                    _ => texts_of(value, key, into),
                }
            }
        }
        serde_json::Value::Array(list) => {
            for value in list {
                texts_of(value, key, into);
            }
        }
        _ => {}
    }
}

/// Expressions of the dashboard, with its variables filled in.
fn of_the_dashboard() -> Vec<String> {
    let dashboard = serde_json::from_str(&read("deploy/grafana-dashboard.json")).unwrap();
    let mut expressions = Vec::new();
    texts_of(&dashboard, "expr", &mut expressions);
    let filled = expressions.iter().map(|expression| {
        ["$instance", "$tenant", "$job"]
            .iter()
            .fold(expression.clone(), |text, name| text.replace(name, ".*"))
            .replace("$__rate_interval", "5m")
    });
    filled.collect()
}

fn rules() -> Vec<serde_json::Value> {
    let rules: serde_json::Value =
        serde_norway::from_str(&read("deploy/prometheus-alerts.yml")).unwrap();
    let groups = rules["groups"].as_array().unwrap().iter();
    groups
        .flat_map(|group| group["rules"].as_array().unwrap().clone())
        .collect()
}

/// Metrics of ours named in an expression, each with what stands in its braces.
fn selectors(expression: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut rest = expression;
    while let Some(at) = rest.find(is_word) {
        rest = &rest[at..];
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if word.starts_with("presence_cloud_") || word.starts_with("process_") {
            let matchers = after.strip_prefix('{').and_then(|m| m.split_once('}'));
            found.push((word.to_owned(), matchers.map_or("", |m| m.0).to_owned()));
        }
        // What is quoted is no name.
        rest = after;
        if let Some(quoted) = rest.strip_prefix('"') {
            rest = quoted.split_once('"').map_or("", |q| q.1);
        }
    }
    found
}

#[test]
fn the_page_about_metrics_is_the_table() {
    let page = read("docs/metrics.md");
    let told: BTreeSet<&str> = page
        .lines()
        .filter(|line| line.starts_with("| `presence_cloud_") || line.starts_with("| `process_"))
        .collect();
    let rows: Vec<String> = TABLE
        .iter()
        .map(|m| {
            let labels: Vec<_> = m.labels.iter().map(|label| format!("`{label}`")).collect();
            let (kind, labels) = (m.kind.word(), labels.join(", "));
            format!("| `{}` | {kind} | {labels} | {} |", m.name, m.help)
        })
        .collect();
    let table: BTreeSet<&str> = rows.iter().map(String::as_str).collect();
    let missing: Vec<_> = table.difference(&told).collect();
    let invented: Vec<_> = told.difference(&table).collect();
    assert!(
        missing.is_empty() && invented.is_empty(),
        "missing: {missing:#?}\nnot in the code: {invented:#?}"
    );
}

#[test]
fn the_alert_rules_hold_and_each_of_them_is_tested() {
    judged(&["check", "rules", "prometheus-alerts.yml"], "");
    judged(&["test", "rules", "prometheus-alerts.test.yml"], "");
    let tests: serde_json::Value =
        serde_norway::from_str(&read("deploy/prometheus-alerts.test.yml")).unwrap();
    let mut tested = Vec::new();
    texts_of(&tests, "alertname", &mut tested);
    let runbook = read("docs/operations.md");
    for rule in rules() {
        let name = rule["alert"].as_str().unwrap();
        assert!(tested.iter().any(|t| t == name), "{name} is not tested");
        assert!(
            runbook.contains(&format!("`{name}`")),
            "{name} is not in docs/operations.md"
        );
        let severity = rule["labels"]["severity"].as_str().unwrap();
        assert!(["warning", "critical"].contains(&severity), "{name}");
        for text in ["summary", "description"] {
            let text = rule["annotations"][text].as_str();
            assert!(text.is_some_and(|t| t.ends_with('.')), "{name}");
        }
    }
}

#[tokio::test]
async fn what_is_exported_is_what_is_written_down_and_looked_at() {
    let (stage, _suite) = eventful().await;
    let linux = cfg!(target_os = "linux");
    let table: BTreeSet<&str> = TABLE
        .iter()
        .map(|m| m.name)
        .filter(|name| linux || !name.starts_with("process_"))
        // Told by listeners that have a certificate: `a_listener_holds::a_new_certificate_is_shown_while_streams_go_on`.
        .filter(|name| !name.contains("_listener_certificate_"))
        .collect();
    // Both ways: everything in the table is exported, and nothing else.
    let scrape = until_scraped(&stage, "everything is exported", |s| {
        let exported: BTreeSet<&str> = s.samples.iter().map(|(n, ..)| family(n)).collect();
        table.is_subset(&exported)
    })
    .await;
    let exported: BTreeSet<&str> = scrape.samples.iter().map(|(n, ..)| family(n)).collect();
    assert_eq!(exported, table);
    judged(&["check", "metrics"], &scrape.text);

    for (name, labels, _) in &scrape.samples {
        let metric = metric(name);
        assert_eq!(scrape.help[metric.name], metric.help);
        assert_eq!(scrape.kinds[metric.name], metric.kind.word());
        let own: BTreeSet<_> = labels
            .keys()
            .map(String::as_str)
            .filter(|l| *l != "le")
            .collect();
        assert_eq!(own, metric.labels.iter().copied().collect(), "{name}");
    }

    // Dashboard and alerts ask for what there is, with labels and words that there are.
    let dashboard = of_the_dashboard();
    let rules = rules();
    let alerts = rules
        .iter()
        .map(|rule| rule["expr"].as_str().unwrap().to_owned());
    let mut looked_at = BTreeSet::new();
    for expression in dashboard.iter().cloned().chain(alerts) {
        for (name, matchers) in selectors(&expression) {
            let metric = metric(&name);
            looked_at.insert(metric.name);
            let pairs = matchers.split("\",").filter(|pair| !pair.trim().is_empty());
            for pair in pairs {
                let (label, value) = pair.split_once('"').unwrap();
                let exact = !label.contains(['~', '!']);
                let label = label.trim_end_matches(['=', '~', '!']).trim();
                // The server's own labels.
                if ["instance", "job"].contains(&label) {
                    continue;
                }
                assert!(metric.labels.contains(&label), "{label} in {expression}");
                let value = value.trim_end_matches('"');
                let words = value.split('|').filter(|w| !w.contains(['.', '*']));
                for word in words {
                    let mut samples = scrape.samples.iter();
                    let known =
                        samples.any(|(n, l, _)| family(n) == metric.name && l[label] == word);
                    // Not everything has gone wrong here: states are those of the two tenants, and pages have not failed.
                    let of_now = metric.name == "presence_cloud_tenant_health" && !exact;
                    assert!(known || of_now, "{label}={word} in {expression}");
                }
            }
        }
    }
    let not_looked_at: Vec<_> = table.difference(&looked_at).collect();
    assert!(
        not_looked_at.is_empty(),
        "on no dashboard: {not_looked_at:?}"
    );

    // The dashboard's expressions are PromQL.
    let as_rules: Vec<serde_json::Value> = dashboard
        .iter()
        .enumerate()
        .map(|(n, expression)| serde_json::json!({"record": format!("panel:{n}"), "expr": expression}))
        .collect();
    assert!(as_rules.len() > 30);
    let file = tempfile::NamedTempFile::with_suffix(".json").unwrap();
    let groups = serde_json::json!({"groups": [{"name": "dashboard", "rules": as_rules}]});
    std::fs::write(file.path(), groups.to_string()).unwrap();
    judged(&["check", "rules", file.path().to_str().unwrap()], "");
}

#[tokio::test]
async fn the_numbers_say_what_happened() {
    let (stage, _suite) = eventful().await;
    let contoso = stage.cloud().unwrap().figures();
    let contoso = contoso
        .iter()
        .find(|(_, figures)| figures.coverage.watched > 0)
        .unwrap()
        .0;
    let id = contoso.to_string();
    let s = until_scraped(&stage, "all is well again", |s| {
        s.sum("presence_cloud_tenants", &[("state", "connected")]) >= 2.0
            && s.sum("presence_cloud_tenant_refresh_token_age_seconds", &[]) > 0.0
            && s.sum(
                "presence_cloud_people_watched",
                &[("coverage", "uncovered")],
            ) >= 1.0
    })
    .await;
    let is = |name: &str, labels: &[(&str, &str)], value: f64| {
        let found = s.sum(name, labels);
        assert!(
            (found - value).abs() < 1e-9,
            "{name} {labels:?} is {found}, not {value}"
        );
    };
    let at_least = |name: &str, labels: &[(&str, &str)], value: f64| {
        let found = s.sum(name, labels);
        assert!(
            found >= value,
            "{name} {labels:?} is {found}, below {value}"
        );
    };
    is("presence_cloud_suites_connected", &[], 1.0);
    is("presence_cloud_streams_open", &[], 1.0);
    is(
        "presence_cloud_streams_opened_total",
        &[("resumed", "false")],
        2.0,
    );
    is("presence_cloud_streams_ended_total", &[], 1.0);
    is(
        "presence_cloud_people_watched",
        &[("coverage", "monitored")],
        5.0,
    );
    is(
        "presence_cloud_people_watched",
        &[("coverage", "uncovered")],
        1.0,
    );
    is("presence_cloud_tenants", &[], 2.0);
    is(
        "presence_cloud_tenant_health",
        &[("tenant", &id), ("state", "connected")],
        1.0,
    );
    is(
        "presence_cloud_enrolments_total",
        &[("outcome", "enrolled")],
        3.0,
    );
    is(
        "presence_cloud_enrolments_total",
        &[("outcome", "refused")],
        0.0,
    );
    let throttled = [("operation", "presences"), ("retry_after", "given")];
    is("presence_cloud_microsoft_throttled_total", &throttled, 1.0);
    is("presence_cloud_microsoft_retry_after_seconds_sum", &[], 1.0);
    at_least(
        "presence_cloud_microsoft_requests_total",
        &[("operation", "presences"), ("outcome", "ok")],
        3.0,
    );
    at_least(
        "presence_cloud_microsoft_requests_total",
        &[("operation", "lookup"), ("outcome", "ok")],
        1.0,
    );
    at_least(
        "presence_cloud_microsoft_requests_total",
        &[("operation", "refresh"), ("outcome", "ok")],
        1.0,
    );
    at_least(
        "presence_cloud_microsoft_requests_total",
        &[("operation", "app_token"), ("outcome", "ok")],
        1.0,
    );
    for connection in ["organisation", "service_account"] {
        let ok = [("connection", connection), ("outcome", "ok")];
        at_least("presence_cloud_token_renewals_total", &ok, 1.0);
    }
    at_least(
        "presence_cloud_sweeps_total",
        &[("outcome", "answered")],
        2.0,
    );
    at_least(
        "presence_cloud_sweeps_total",
        &[("outcome", "unanswered")],
        2.0,
    );
    at_least("presence_cloud_changes_total", &[], 6.0);
    at_least("presence_cloud_people_read_total", &[], 10.0);
    at_least("presence_cloud_change_lag_seconds_count", &[], 1.0);
    at_least(
        "presence_cloud_store_duration_seconds_count",
        &[("access", "read")],
        1.0,
    );
    at_least(
        "presence_cloud_store_duration_seconds_count",
        &[("access", "write")],
        1.0,
    );
    is(
        "presence_cloud_grpc_requests_total",
        &[("method", "Watch"), ("code", "OK")],
        2.0,
    );
    is(
        "presence_cloud_grpc_requests_total",
        &[("method", "GetPresence"), ("code", "OK")],
        1.0,
    );
    let refused = [("method", "GetPresence"), ("code", "UNAUTHENTICATED")];
    is("presence_cloud_grpc_requests_total", &refused, 1.0);
    for (route, status) in [("/", "200"), ("none", "404"), ("/s/{token}", "410")] {
        let labels = [("listener", "web"), ("route", route), ("status", status)];
        is("presence_cloud_http_requests_total", &labels, 1.0);
    }
    at_least(
        "presence_cloud_connections_accepted_total",
        &[("listener", "operators")],
        1.0,
    );
    at_least(
        "presence_cloud_connections_open",
        &[("listener", "grpc")],
        1.0,
    );
    is("presence_cloud_cadence_wanted_seconds", &[], 0.15);
    at_least(
        "presence_cloud_tenant_cadence_seconds",
        &[("tenant", &id)],
        0.15,
    );
    at_least(
        "presence_cloud_tenant_budget_used_ratio",
        &[("tenant", &id)],
        0.001,
    );
    at_least("presence_cloud_application_budget_allowed", &[], 1.0);
    is("presence_cloud_draining", &[], 0.0);
    at_least("process_start_time_seconds", &[], 1_700_000_000.0);
    // Nobody is watched in the other tenant, so nothing is missed there.
    let read_ages = s
        .samples
        .iter()
        .filter(|(n, ..)| n == "presence_cloud_tenant_read_age_seconds");
    assert_eq!(read_ages.count(), 1);

    // A tenant that goes takes its lines with it.
    let (done, said) =
        crate::support::program::operator(stage.folder(), &["tenant", "remove", &id, "--yes"])
            .await;
    assert!(done, "{said}");
    let s = until_scraped(&stage, "the tenant is gone", |s| !s.text.contains(&id)).await;
    assert!((s.sum("presence_cloud_tenants", &[]) - 1.0).abs() < 1e-9);
    until("its stream has ended", || {
        stage
            .cloud()
            .unwrap()
            .metrics()
            .contains("reason=\"tenant_gone\"} 1")
    })
    .await;
}
