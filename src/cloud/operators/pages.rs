//! What operators see. Everything shown is escaped by the templates.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Deserialize;
use uuid::Uuid;

use super::desk::{Answer, Common, Desk, Failure, Nothing, Order, Place, Viewer, Wanted, page};
use super::texts::Texts;
use crate::cloud::operations::Tested;
use crate::cloud::operations::view::{
    AlertLine, CredentialLine, Live, Overview, SuiteLine, TenantDetail, TenantLine,
};
use crate::cloud::store::{Addressee, AuditEntry};
use crate::cloud::web::pages::time;
use crate::model::{TenantId, Timestamp};
use crate::secret::sha256;

/// Rows of the overview unless all are asked for: as many as one scrolls through.
const ROWS: usize = 100;

/// Open alerts on the overview, the worst first: more would push the tenants out of sight.
const WORST_ALERTS: usize = 5;

/// Entries of the audit log on a page.
const ENTRIES: u32 = 100;

/// Closed and open alerts on their page.
const ALERTS: u32 = 200;

/// States, in the order of the chips: those that need somebody first.
const STATES: [(&str, &str); 7] = [
    ("needs re-authorization", "bad"),
    ("needs administrator", "bad"),
    ("degraded", "warn"),
    ("pending", "rest"),
    ("connected", "good"),
    ("suspended", "rest"),
    ("gone", "rest"),
];

fn class(state: &str) -> &'static str {
    let found = STATES.iter().find(|(name, _)| *name == state);
    found.map_or("rest", |(_, class)| class)
}

/// A duration in one figure and a word, as one says it.
pub fn span(duration: Duration) -> String {
    let s = duration.as_secs();
    match s {
        0 if duration.as_millis() > 0 => format!("{} ms", duration.as_millis()),
        0..120 => format!("{s} s"),
        120..7_200 => format!("{} min", s / 60),
        7_200..172_800 => format!("{} h", s / 3_600),
        _ => format!("{} days", s / 86_400),
    }
}

fn cadence(ms: u64) -> String {
    if ms < 10_000 && !ms.is_multiple_of(1_000) {
        let tenths = ms / 100;
        return format!("{}.{} s", tenths / 10, tenths % 10);
    }
    span(Duration::from_millis(ms))
}

/// How values are written, for the templates.
struct Show;

impl Show {
    fn time(at: impl Borrow<Timestamp>) -> String {
        time(*at.borrow())
    }

    fn maybe(at: impl Borrow<Option<Timestamp>>) -> String {
        at.borrow().map(time).unwrap_or_default()
    }

    fn class(state: &str) -> &'static str {
        class(state)
    }
}

/// A page that keeps itself up to date: an unchanged one is not sent again. What changes with every second, `now`, is not looked at.
fn live(template: &impl Template, now: &str, headers: &HeaderMap) -> Answer {
    let html = template
        .render()
        .map_err(|e| Failure::Ours(e.to_string()))?;
    let digest = sha256(html.replace(now, "").as_bytes());
    let tag = format!("\"{}\"", URL_SAFE_NO_PAD.encode(&digest[..12]));
    let known = headers.get(header::IF_NONE_MATCH);
    let mut response = if known.and_then(|v| v.to_str().ok()) == Some(tag.as_str()) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        axum::response::Html(html).into_response()
    };
    let extra = [
        (header::ETAG, tag),
        (HeaderName::from_static("x-as-of"), now.to_owned()),
    ];
    for (name, value) in extra {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(name, value);
        }
    }
    Ok(response)
}

/// The time of day to the second, in UTC.
fn clock(at: Timestamp) -> String {
    at.to_string().get(11..19).unwrap_or_default().to_owned()
}

/// What is asked of the overview.
#[derive(Deserialize, Default, Clone)]
#[serde(default)]
pub struct Wish {
    q: String,
    health: String,
    attention: String,
    connection: String,
    sort: String,
    dir: String,
    all: String,
}

impl Wish {
    fn fits(&self, line: &TenantLine, domains: &HashMap<TenantId, String>) -> bool {
        let q = self.q.trim().to_lowercase();
        (self.health.is_empty() || line.health.state == self.health)
            && (self.attention.is_empty() || line.attention.as_str() == self.attention)
            && (self.connection.is_empty() || line.connection == self.connection)
            && (q.is_empty()
                || line.name.to_lowercase().contains(&q)
                || line.id.to_string().contains(&q)
                || domains.get(&line.id).is_some_and(|d| d.contains(&q)))
    }

    /// The same with something else.
    fn with(&self, changes: &[(&str, &str)]) -> String {
        let mut pairs = [
            ("q", self.q.as_str()),
            ("health", &self.health),
            ("attention", &self.attention),
            ("connection", &self.connection),
            ("sort", &self.sort),
            ("dir", &self.dir),
            ("all", &self.all),
        ];
        for (name, value) in &mut pairs {
            if let Some((_, changed)) = changes.iter().find(|(n, _)| n == name) {
                value.clone_from(changed);
            }
        }
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(pairs.iter().filter(|(_, value)| !value.is_empty()));
        match query.finish().as_str() {
            "" => "/".into(),
            query => format!("/?{query}"),
        }
    }
}

/// A column that can be sorted by.
struct Column {
    label: &'static str,
    href: String,
    /// For `aria-sort`.
    sorted: &'static str,
}

/// How many tenants are in a state.
struct Chip {
    state: &'static str,
    class: &'static str,
    count: usize,
    href: String,
    chosen: bool,
}

/// One row of the overview.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each marks another cell; they go together in every way"
)]
struct Row {
    id: TenantId,
    name: String,
    class: &'static str,
    attention: &'static str,
    state: String,
    since: String,
    cause: String,
    cadence: String,
    wanted: String,
    slow: bool,
    budget: String,
    covered: String,
    permille: usize,
    /// How it is drawn, wherever it is: with nothing beside it if all is well.
    coverage_class: &'static str,
    watched: usize,
    is_read: bool,
    suites: String,
    suites_missing: bool,
    token: String,
    refresh: String,
    throttled: bool,
    alerts: usize,
}

impl Row {
    fn new(of: &TenantLine, now: Timestamp) -> Self {
        let live = of.live.as_ref();
        let coverage = live.map(|l| l.coverage).unwrap_or_default();
        let cadence_ms = live.and_then(|l| l.cadence_ms);
        let wanted_ms = live.map_or(0, |l| l.wanted_ms);
        let is_read = live.is_some_and(|l| l.is_read(now));
        Self {
            id: of.id,
            name: of.name.clone(),
            class: class(&of.health.state),
            attention: of.attention.as_str(),
            state: of.health.state.clone(),
            since: of
                .health
                .since
                .map(|at| span(at.until(now)))
                .unwrap_or_default(),
            cause: of.health.cause.clone(),
            cadence: cadence_ms.map(cadence).unwrap_or_default(),
            wanted: cadence(wanted_ms),
            slow: cadence_ms.is_some_and(|ms| ms > wanted_ms),
            budget: live
                .map(|l| format!("{} / {}", l.budget_used, l.budget_allowed))
                .unwrap_or_default(),
            covered: if coverage.watched > 0 && is_read {
                format!("{} / {}", coverage.monitored, coverage.watched)
            } else {
                String::new()
            },
            permille: coverage.monitored * 1000 / coverage.watched.max(1),
            coverage_class: if coverage.uncovered() > 0 || !is_read {
                "short"
            } else {
                ""
            },
            watched: coverage.watched,
            is_read,
            suites: format!("{} / {}", of.suites_connected, of.suites),
            suites_missing: of.suites_connected < of.suites,
            token: live
                .and_then(|l| l.token_given_at)
                .map(|at| span(at.until(now)))
                .unwrap_or_default(),
            refresh: of
                .refresh_token_stored_at
                .map(|at| span(at.until(now)))
                .unwrap_or_default(),
            throttled: live.is_some_and(|l| l.throttled_since.is_some()),
            alerts: of.alerts,
        }
    }
}

#[derive(Template)]
#[template(path = "operators/overview.html")]
struct OverviewPage {
    t: &'static Texts,
    c: Common,
    now: String,
    wish: Wish,
    chips: Vec<Chip>,
    all_href: String,
    columns: Vec<Column>,
    rows: Vec<Row>,
    found: usize,
    show_all: Option<String>,
    alerts: Vec<AlertLine>,
    open_alerts: usize,
    credentials: Vec<CredentialLine>,
    version: String,
}

/// In which order: the column, and what it compares. Empty values come last, whichever way.
fn sort(lines: &mut [TenantLine], by: &str, down: bool) {
    let live = |l: &TenantLine, of: fn(&Live) -> Option<u64>| l.live.as_ref().and_then(of);
    // The youngest first, as with every other column.
    let since = |at: Option<Timestamp>| {
        at.map(|at| u64::MAX - u64::try_from(at.as_millis()).unwrap_or_default())
    };
    let number = |l: &TenantLine| -> Option<u64> {
        let count = |n: usize| Some(u64::try_from(n).unwrap_or(u64::MAX));
        match by {
            "cadence" => live(l, |l| l.cadence_ms),
            "budget" => live(l, |l| {
                Some(u64::from(l.budget_used) * 1000 / u64::from(l.budget_allowed.max(1)))
            }),
            "coverage" => live(l, |l| {
                let c = l.coverage;
                (c.watched > 0 && l.cadence_ms.is_some())
                    .then(|| u64::try_from(c.monitored * 1_000_000 / c.watched).unwrap_or(0))
            }),
            "suites" => count(l.suites_connected),
            "token" => since(l.live.as_ref().and_then(|l| l.token_given_at)),
            "refresh" => since(l.refresh_token_stored_at),
            "alerts" => count(l.alerts),
            _ => None,
        }
    };
    match by {
        // As they come: those that need somebody first.
        "" => {}
        "name" => lines.sort_by_cached_key(|l| l.name.to_lowercase()),
        "health" => lines.sort_by_key(|l| {
            let place = STATES.iter().position(|(s, _)| *s == l.health.state);
            (place, l.health.since)
        }),
        _ => {
            lines.sort_by(|a, b| match (number(a), number(b)) {
                (Some(a), Some(b)) if down => b.cmp(&a),
                (Some(a), Some(b)) => a.cmp(&b),
                (a, b) => b.is_some().cmp(&a.is_some()),
            });
            return;
        }
    }
    if down {
        lines.reverse();
    }
}

fn overview_page(
    t: &'static Texts,
    c: Common,
    mut seen: Overview,
    domains: &HashMap<TenantId, String>,
    wish: Wish,
) -> OverviewPage {
    let chips = STATES
        .iter()
        .map(|(state, class)| {
            let chosen = wish.health == *state;
            Chip {
                state,
                class,
                count: seen
                    .tenants
                    .iter()
                    .filter(|l| l.health.state == *state)
                    .count(),
                href: wish.with(&[("health", if chosen { "" } else { state })]),
                chosen,
            }
        })
        .filter(|chip| chip.count > 0 || chip.chosen)
        .collect();
    let down = wish.dir == "down";
    let column = |label, key: &str| {
        let is_sorted = wish.sort == key;
        let dir = if is_sorted && !down { "down" } else { "" };
        Column {
            label,
            href: wish.with(&[("sort", key), ("dir", dir)]),
            sorted: match (is_sorted, down) {
                (false, _) => "none",
                (true, false) => "ascending",
                (true, true) => "descending",
            },
        }
    };
    let o = &t.overview;
    let columns = vec![
        column(o.tenant, "name"),
        column(o.health, "health"),
        column(o.cadence, "cadence"),
        column(o.budget, "budget"),
        column(o.coverage, "coverage"),
        column(o.suites, "suites"),
        column(o.token, "token"),
        column(o.refresh, "refresh"),
        column(o.open_alerts, "alerts"),
    ];
    seen.tenants.retain(|line| wish.fits(line, domains));
    sort(&mut seen.tenants, &wish.sort, down);
    let found = seen.tenants.len();
    let more = wish.all.is_empty() && found > ROWS;
    if more {
        seen.tenants.truncate(ROWS);
    }
    let open_alerts = seen.alerts.len();
    seen.alerts.truncate(WORST_ALERTS);
    OverviewPage {
        t,
        now: clock(seen.at),
        open_alerts,
        chips,
        all_href: wish.with(&[("health", "")]),
        columns,
        rows: seen.tenants.iter().map(|l| Row::new(l, seen.at)).collect(),
        found,
        show_all: more.then(|| wish.with(&[("all", "1")])),
        alerts: seen.alerts,
        credentials: seen.credentials,
        version: seen.version,
        wish,
        c,
    }
}

/// Everything at one glance.
pub async fn overview(
    State(desk): State<Arc<Desk>>,
    viewer: Viewer,
    Wanted(wish): Wanted<Wish>,
    headers: HeaderMap,
) -> Answer {
    let seen = desk.operations().overview().await?;
    let domains = desk.operations().store().domains().await?;
    let common = viewer.common("overview");
    let page = overview_page(desk.texts, common, seen, &domains, wish);
    live(&page, &page.now, &headers)
}

#[derive(Template)]
#[template(path = "operators/tenant.html")]
struct TenantPage {
    t: &'static Texts,
    c: Common,
    now: String,
    sends_mail: bool,
    done: &'static str,
    d: TenantDetail,
    row: Row,
    live: Option<Live>,
}

/// What was done before this page was asked for.
#[derive(Deserialize, Default)]
#[serde(default)]
pub struct Done {
    done: String,
}

/// One tenant.
pub async fn tenant(
    State(desk): State<Arc<Desk>>,
    viewer: Viewer,
    Place(id): Place<Uuid>,
    Wanted(done): Wanted<Done>,
    headers: HeaderMap,
) -> Answer {
    let detail = desk.operations().tenant(TenantId(id)).await?;
    let detail = detail.ok_or(Failure::NotFound)?;
    let t = desk.texts;
    let page = TenantPage {
        t,
        c: viewer.common("overview"),
        now: clock(detail.at),
        sends_mail: desk.operations().sends_mail(),
        done: match done.done.as_str() {
            "paused" => t.done.paused,
            "resumed" => t.done.resumed,
            "refreshed" => t.done.refreshed,
            "revoked" => t.done.revoked,
            "sent" => t.done.sent,
            _ => "",
        },
        row: Row::new(&detail.line, detail.at),
        live: detail.line.live.clone(),
        d: detail,
    };
    live(&page, &page.now, &headers)
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub struct Search {
    q: String,
}

#[derive(Template)]
#[template(path = "operators/suites.html")]
struct SuitesPage {
    t: &'static Texts,
    c: Common,
    now: String,
    q: String,
    suites: Vec<SuiteLine>,
}

/// All suites.
pub async fn suites(
    State(desk): State<Arc<Desk>>,
    viewer: Viewer,
    Wanted(search): Wanted<Search>,
    headers: HeaderMap,
) -> Answer {
    let mut suites = desk.operations().suites(None).await?;
    let q = search.q.trim().to_lowercase();
    suites.retain(|s| {
        let agent = s.agent.as_deref().unwrap_or_default();
        [&s.name, &s.tenant_name, agent, &s.id.to_string()]
            .iter()
            .any(|text| text.to_lowercase().contains(&q))
    });
    let page = SuitesPage {
        t: desk.texts,
        c: viewer.common("suites"),
        now: clock(desk.operations().now()),
        q: search.q,
        suites,
    };
    live(&page, &page.now, &headers)
}

#[derive(Template)]
#[template(path = "operators/alerts.html")]
struct AlertsPage {
    t: &'static Texts,
    c: Common,
    now: String,
    alerts: Vec<AlertLine>,
    receivers: Vec<Addressee>,
    tested: Vec<Tested>,
}

async fn alerts_page(
    desk: &Desk,
    viewer: &Viewer,
    tested: Vec<Tested>,
) -> Result<AlertsPage, Failure> {
    let operations = desk.operations();
    Ok(AlertsPage {
        t: desk.texts,
        c: viewer.common("alerts"),
        now: clock(operations.now()),
        alerts: operations.alerts(None, false, ALERTS).await?,
        receivers: operations.receivers(),
        tested,
    })
}

/// Open and closed alerts.
pub async fn alerts(State(desk): State<Arc<Desk>>, viewer: Viewer, headers: HeaderMap) -> Answer {
    let page = alerts_page(&desk, &viewer, Vec::new()).await?;
    live(&page, &page.now, &headers)
}

/// A test message to everybody who is told, and what came of it.
pub async fn test_alerts(State(desk): State<Arc<Desk>>, order: Order<Nothing>) -> Answer {
    let tested = desk.operations().test_alerts(&order.by).await?;
    page(&alerts_page(&desk, &order.viewer, tested).await?)
}

/// Which entries.
#[derive(Deserialize, Default)]
#[serde(default)]
pub struct Entries {
    tenant: Option<Uuid>,
    before: Option<i64>,
}

#[derive(Template)]
#[template(path = "operators/audit.html")]
struct AuditPage {
    t: &'static Texts,
    c: Common,
    tenant: Option<Uuid>,
    tenant_name: String,
    paged: bool,
    before: Option<i64>,
    entries: Vec<AuditEntry>,
    /// Of the tenants that are still there.
    names: HashMap<TenantId, String>,
}

impl AuditPage {
    fn name(&self, id: &TenantId) -> String {
        let name = self.names.get(id).cloned();
        name.unwrap_or_else(|| id.to_string())
    }
}

/// The audit log.
pub async fn audit(
    State(desk): State<Arc<Desk>>,
    viewer: Viewer,
    Wanted(wish): Wanted<Entries>,
) -> Answer {
    let tenant = wish.tenant.map(TenantId);
    let rows = desk.operations().store().tenants().await?;
    let names: HashMap<TenantId, String> = rows.into_iter().map(|t| (t.id, t.name)).collect();
    let tenant_name = tenant.and_then(|id| names.get(&id).cloned());
    let entries = desk
        .operations()
        .audit(tenant, wish.before, ENTRIES)
        .await?;
    let full = entries.len() == usize::try_from(ENTRIES).unwrap_or(usize::MAX);
    let page = AuditPage {
        t: desk.texts,
        c: viewer.common("audit"),
        tenant: wish.tenant,
        tenant_name: tenant_name.unwrap_or_else(|| wish.tenant.unwrap_or_default().to_string()),
        paged: wish.before.is_some(),
        before: entries.last().filter(|_| full).map(|e| e.id),
        entries,
        names,
    };
    super::desk::page(&page)
}

/// A file to keep.
pub fn download(name: &str, kind: &'static str, body: String) -> Response {
    let disposition = format!("attachment; filename=\"{name}\"");
    let headers = [
        (header::CONTENT_TYPE, kind.to_owned()),
        (header::CONTENT_DISPOSITION, disposition),
    ];
    (headers, body).into_response()
}
