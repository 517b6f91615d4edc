//! What Microsoft, or whoever stands between, can send to harm us: each has a name, costs little, is told, asked for again within
//! bounds, and over by itself. Answers come over HTTP from the simulator's own server, but where time is moved by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use presence_bridge::clock::Clock;
use presence_bridge::cloud::store::ConnectionKind::ServiceAccount;
use presence_bridge::microsoft::transport::Waiting;
use presence_bridge::microsoft::{
    AppCredential, Entra, Graph, HttpTransport as _, Limits, MicrosoftError, Recovery,
    ReqwestTransport, TransportError,
};
use presence_bridge::model::{Upn, UserId};
use presence_bridge::secret::Secret;
use presence_bridge::simulator::{Endpoint, Fault, Scope, Tenant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use url::Url;

use crate::microsoft_misbehaves::{Scene, fault, passing_failure, peak_memory_kib};
use crate::support::stage::{Stage, quick, upns};
use crate::support::time::Fleet;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

/// Our client, as the service has it, beside a service.
struct Client {
    stage: Stage,
    tenant: Tenant,
    graph: Graph,
    entra: Entra,
    token: Secret,
}

impl Client {
    async fn new() -> Self {
        let stage = Stage::new(quick()).await;
        let url = stage.microsoft_url().clone();
        Self::at(stage, &url).await
    }

    /// By way of this address.
    async fn at(stage: Stage, url: &Url) -> Self {
        let tenant = stage.tenant("contoso.example", 20).await;
        let secret = std::fs::read_to_string(stage.folder().join("client-secret")).unwrap();
        let transport = Arc::new(ReqwestTransport::new(std::slice::from_ref(url), None).unwrap());
        let graph = Graph::new(transport.clone(), url.clone());
        let entra = Entra::new(
            transport,
            url.clone(),
            "https://graph.microsoft.com".parse().unwrap(),
            stage.client_id(),
            AppCredential::Secret(Secret::new(secret.trim())),
            Clock::system(),
        )
        .unwrap();
        let token = entra.app_token(tenant.id()).await.unwrap().secret;
        Self {
            stage,
            tenant,
            graph,
            entra,
            token,
        }
    }

    fn next(&self, fault: &Fault, endpoint: Endpoint) {
        let scope = Scope::TenantEndpoint(self.tenant.id(), endpoint);
        self.stage
            .microsoft
            .set_fault(fault.clone(), scope, Some(1));
    }

    async fn presences(&self) -> Result<usize, MicrosoftError> {
        let ids: Vec<UserId> = self
            .tenant
            .people()
            .iter()
            .map(|p| p.id.to_string().parse().unwrap())
            .collect();
        let read = self.graph.presences(&self.token, &ids).await;
        read.map(|presences| presences.len())
    }

    async fn lookup(&self) -> Result<usize, MicrosoftError> {
        let names = upns(&self.tenant);
        let names: Vec<Upn> = names.iter().map(|n| Upn::parse(n).unwrap()).collect();
        let lookup = self.graph.lookup(&self.token, &names).await;
        lookup.map(|lookup| lookup.found.len())
    }

    async fn app_token(&self) -> Result<usize, MicrosoftError> {
        let token = self.entra.app_token(self.tenant.id()).await;
        token.map(|token| token.secret.expose().len())
    }
}

/// How an error reads, with what it comes from.
fn in_words(error: &MicrosoftError) -> String {
    let cause = std::error::Error::source(error).map(|e| format!(": {e}"));
    format!("{error}{}", cause.unwrap_or_default())
}

/// Every hostile answer that is complete, with what its error says.
fn hostile_answers() -> Vec<(Fault, &'static str)> {
    let to = "https://evil.example/".to_owned();
    let moved = |status| Fault::Redirect {
        to: to.clone(),
        status,
    };
    vec![
        (Fault::Endless, "longer than"),
        (Fault::HugeBody, "longer than"),
        (Fault::GzipBomb, "longer than"),
        (Fault::GzipHollow, "longer than"),
        (Fault::GzipGarbage, "cannot be unpacked"),
        (Fault::Reset, "the connection broke"),
        (Fault::DeepJson, "not JSON"),
        (Fault::GarbageJson, "not JSON"),
        (Fault::TruncatedJson, "not JSON"),
        (Fault::EmptyBody, "not JSON"),
        (Fault::PortalPage, "not JSON"),
        (Fault::WrongCharset, "not JSON"),
        (Fault::ErrorInOk, "bad answer"),
        (Fault::GatewayHtml, "status 502"),
        (moved(301), "status 301"),
        (moved(302), "status 302"),
        (moved(303), "status 303"),
        (moved(307), "status 307"),
        (moved(308), "status 308"),
    ]
}

#[tokio::test]
async fn every_hostile_answer_has_a_name_at_every_endpoint_and_passes() {
    let client = Client::new().await;
    let before = peak_memory_kib();
    for (fault, says) in hostile_answers() {
        let name = fault.name();
        client.next(&fault, Endpoint::Presence);
        let presence = client.presences().await;
        client.next(&fault, Endpoint::Batch);
        let lookup = client.lookup().await;
        client.next(&fault, Endpoint::Token);
        let token = client.app_token().await;
        for (endpoint, outcome) in [("presence", presence), ("lookup", lookup), ("token", token)] {
            let error = outcome.expect_err(&name);
            let words = in_words(&error);
            assert!(words.contains(says), "{name} at {endpoint}: {words}");
            assert!(
                !words.contains("evil") && !words.contains("127.0.0.1"),
                "{name} at {endpoint}: {words}"
            );
            assert!(
                matches!(error.recovery(), Recovery::Retry { after: None }),
                "{name} at {endpoint}: {:?}",
                error.recovery()
            );
            let told = error.passing_cause();
            assert_eq!(
                told.is_some(),
                fault != Fault::GatewayHtml,
                "{name} at {endpoint}: {told:?}"
            );
        }
        assert!(client.stage.microsoft.faults().is_empty(), "each was met");
        // And it was for one answer only: nothing of it is left in the connection.
        assert_eq!(client.presences().await.unwrap(), 20, "{name}");
    }
    assert_eq!(client.lookup().await.unwrap(), 20);
    assert!(client.app_token().await.unwrap() > 0);
    let grown = peak_memory_kib() - before;
    assert!(grown < 48 * 1024, "{grown} KiB");
}

/// Limits of the shape of ours, in less time.
const SHORT: Limits = Limits {
    total: Duration::from_millis(900),
    first_byte: Duration::from_millis(500),
    idle: Duration::from_millis(300),
    max_body: 64 << 10,
};

#[tokio::test]
async fn slow_answers_run_into_the_limit_that_is_for_them() {
    let client = Client::new().await;
    let url = client.stage.microsoft_url();
    let transport = ReqwestTransport::new(std::slice::from_ref(url), None).unwrap();
    let tenant = client.tenant.id();
    let requests = [
        (
            Endpoint::Presence,
            "v1.0/communications/getPresencesByUserId".to_owned(),
            format!("Bearer {}", client.token.expose()),
        ),
        (
            Endpoint::Token,
            format!("{tenant}/oauth2/v2.0/token"),
            String::new(),
        ),
    ];
    let slow = |delay_ms| Fault::Slow { delay_ms };
    let drip = |delay_ms| Fault::Drip { delay_ms };
    for (fault, error) in [
        (slow(60_000), TransportError::Timeout(Waiting::Head)),
        (Fault::Stall, TransportError::Timeout(Waiting::Body)),
        (drip(60_000), TransportError::Timeout(Waiting::Body)),
        (drip(50), TransportError::Timeout(Waiting::End)),
    ] {
        for (endpoint, path, authorization) in &requests {
            client.next(&fault, *endpoint);
            let request = http::Request::post(format!("{url}{path}"))
                .header("authorization", authorization)
                .body(Bytes::new())
                .unwrap();
            let outcome = transport.send(request, SHORT).await;
            assert_eq!(outcome.unwrap_err(), error, "{fault:?} at {endpoint:?}");
        }
    }
}

/// A way to the simulated Microsoft on which is counted what it sends.
async fn counted(to: &Url) -> (Url, Arc<AtomicU64>, tokio::task::JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let upstream = format!("127.0.0.1:{}", to.port().unwrap());
    let count = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&count);
    let mut work = tokio::task::JoinSet::new();
    work.spawn(async move {
        let mut ways = tokio::task::JoinSet::new();
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&upstream).await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            let counter = Arc::clone(&counter);
            ways.spawn(async move {
                let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
            });
            ways.spawn(async move {
                let mut piece = vec![0; 16 << 10];
                while let Ok(count @ 1..) = from_server.read(&mut piece).await {
                    // Counted only when the client has room for it.
                    if to_client.write_all(&piece[..count]).await.is_err() {
                        break;
                    }
                    counter.fetch_add(count as u64, Ordering::Relaxed);
                }
            });
        }
    });
    (Url::parse(&url).unwrap(), count, work)
}

#[tokio::test]
async fn what_is_too_long_is_not_even_fetched() {
    let stage = Stage::new(quick()).await;
    let (url, count, _work) = counted(stage.microsoft_url()).await;
    let client = Client::at(stage, &url).await;
    for fault in [Fault::Endless, Fault::GzipHollow, Fault::HugeBody] {
        let before = count.load(Ordering::Relaxed);
        client.next(&fault, Endpoint::Presence);
        client.presences().await.unwrap_err();
        let fetched = count.load(Ordering::Relaxed) - before;
        // The limit, and what four sockets on the way may hold; each of these would be a hundred megabytes and more.
        assert!(fetched <= 64 << 20, "{}: {fetched} bytes", fault.name());
    }
}

#[tokio::test]
async fn a_redirect_takes_neither_token_nor_secret_anywhere() {
    let client = Client::new().await;
    let elsewhere = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let elsewhere_at = format!("http://{}/", elsewhere.local_addr().unwrap());
    let own = |path: &str| client.stage.microsoft_url().join(path).unwrap().to_string();
    let tenant = client.tenant.id();
    for status in [301, 302, 303, 307, 308] {
        for (endpoint, itself) in [
            (
                Endpoint::Presence,
                own("v1.0/communications/getPresencesByUserId"),
            ),
            (Endpoint::Batch, own("v1.0/$batch")),
            (Endpoint::Token, own(&format!("{tenant}/oauth2/v2.0/token"))),
        ] {
            for to in [elsewhere_at.clone(), itself] {
                let fault = Fault::Redirect { to, status };
                client.next(&fault, endpoint);
                let asked = || {
                    let requests = client.stage.microsoft.requests();
                    requests.of(tenant, endpoint).total
                };
                let before = asked();
                let outcome = match endpoint {
                    Endpoint::Presence => client.presences().await,
                    Endpoint::Batch => client.lookup().await,
                    _ => client.app_token().await,
                };
                assert_eq!(outcome.unwrap_err().status(), Some(status));
                assert_eq!(asked() - before, 1, "one request, and no other");
            }
        }
    }
    let visitor = elsewhere.accept().map(|_| "somebody came");
    assert_eq!(
        visitor.unwrap_err().kind(),
        std::io::ErrorKind::WouldBlock,
        "nobody came"
    );
}

/// A hostile answer of Graph, from the first to the recovery: told in words of its own, asked for again ever more rarely.
async fn hostile_graph(fault: Fault, told: &str) {
    let scene = Scene::new().await;
    let before = (peak_memory_kib(), scene.everything());
    scene.break_with(fault.clone());
    scene.suite.until_state("degraded").await;
    let cause = scene.suite.status().unwrap().cause;
    assert!(cause.contains(told), "{cause}");
    scene.mend();
    scene.until_recovered("Available").await;
    passing_failure(&scene, fault, 1).await;
    let grown = peak_memory_kib() - before.0;
    assert!(grown < 40 * 1024, "{grown} KiB");
}

macro_rules! hostile_graph {
    ($($name:ident: $fault:literal, $told:literal;)*) => {$(
        #[tokio::test]
        async fn $name() {
            hostile_graph(fault($fault), $told).await;
        }
    )*};
}

hostile_graph! {
    an_endless_answer_is_told_and_ridden_out: "endless", "longer than any we can use";
    a_bomb_of_gzip_is_told_and_ridden_out: "gzip-bomb", "longer than any we can use";
    gzip_without_content_is_told_and_ridden_out: "gzip-hollow", "longer than any we can use";
    json_as_deep_as_the_stack_is_told_and_ridden_out: "deep-json", "cannot be read";
    another_charset_is_told_and_ridden_out: "wrong-charset", "cannot be read";
    an_error_that_calls_itself_ok_is_told_and_ridden_out: "error-in-ok", "cannot be read";
    pages_without_end_are_told_and_ridden_out: "endless-pages", "has no end";
}

/// A hostile answer of the token endpoint: the service account keeps its refresh token, Entra is not asked again at once, nothing is
/// read without a token, and it is over when Entra is well.
async fn hostile_entra(fault: Fault, told: &str) {
    let scene = Scene::of(ServiceAccount, quick()).await;
    let before = peak_memory_kib();
    let scope = Scope::TenantEndpoint(scene.tenant.id(), Endpoint::Token);
    scene.stage.microsoft.set_fault(fault, scope, None);
    let tokens = scene.token_requests();
    // Whoever tries again forgets the access token.
    scene.resume().await;
    scene.suite.until_state("degraded").await;
    let cause = scene.suite.status().unwrap().cause;
    assert!(cause.contains(told), "{cause}");
    let asked = scene.everything();
    scene.control_sweeps(20).await;
    scene.control_is_well().await;
    scene.assert_told("degraded");
    assert_eq!(scene.token_requests() - tokens, 1, "once, and then a rest");
    assert_eq!(scene.everything(), asked, "and nothing else");
    scene.mend();
    scene.tenant.set_presence(&scene.upn, "Busy", "InACall");
    scene.resume().await;
    scene.until_recovered("Busy").await;
    assert_eq!(scene.token_requests() - tokens, 2);
    let grown = peak_memory_kib() - before;
    assert!(grown < 40 * 1024, "{grown} KiB");
}

macro_rules! hostile_entra {
    ($($name:ident: $fault:expr, $told:literal;)*) => {$(
        #[tokio::test]
        async fn $name() {
            hostile_entra($fault, $told).await;
        }
    )*};
}

hostile_entra! {
    an_endless_answer_of_entra_costs_no_sign_in: fault("endless"), "longer than any we can use";
    a_bomb_of_entra_costs_no_sign_in: fault("gzip-bomb"), "longer than any we can use";
    a_page_of_a_portal_instead_of_entra_costs_no_sign_in: fault("portal-page"), "cannot be read";
    a_broken_answer_of_entra_costs_no_sign_in: fault("reset"), "the connection breaks";
    an_error_of_entra_that_calls_itself_ok_costs_no_sign_in: fault("error-in-ok"), "cannot be read";
    a_redirect_of_entra_costs_no_sign_in: Fault::Redirect { to: "https://evil.example/".into(), status: 307 }, "sent elsewhere";
}

/// Failed sweeps and what was asked meanwhile.
fn failed_sweeps(fleet: &Fleet) -> u64 {
    let line = "presence_cloud_sweeps_total{outcome=\"unanswered\"} ";
    let text = fleet.stage.cloud().unwrap().metrics();
    let value = text.lines().find_map(|l| l.strip_prefix(line));
    value.unwrap_or_else(|| panic!("{text}")).parse().unwrap()
}

async fn breakers(fleet: &Fleet) -> (String, String, String) {
    let operations = fleet.stage.cloud().unwrap().operations();
    let detail = operations.tenant(fleet.members[0].0.id()).await;
    let live = detail.unwrap().unwrap().line.live.unwrap();
    let b = live.breakers;
    (b.presence, b.lookup, b.token)
}

#[tokio::test(start_paused = true)]
async fn one_request_finds_out_whether_microsoft_is_back() {
    // Eight requests a sweep, four of them at the same time.
    let keys = vec![("poll", "batch = 1".to_owned())];
    let fleet = Fleet::begin(1, 8, MINUTE, keys).await;
    assert_eq!(breakers(&fleet).await.0, "closed");
    let scope = Scope::All;
    let unavailable = Fault::Unavailable { retry_after: None };
    fleet.stage.microsoft.set_fault(unavailable, scope, None);
    while fleet.state(0) != "degraded" {
        fleet.pass(SECOND * 20).await;
    }
    // A name to be looked up, which waits for the one that finds out.
    let people = fleet.members[0].0.people();
    let mut watched: Vec<String> = people.iter().map(|person| person.upn.clone()).collect();
    watched.push("nobody@t0.example".into());
    fleet.members[0].1.handle.replace(watched);
    let lookups = fleet.asked(0, Endpoint::Batch);
    let before = (fleet.asked(0, Endpoint::Presence), failed_sweeps(&fleet));
    let mut seen = std::collections::HashSet::new();
    for _ in 0..200 {
        fleet.pass(SECOND * 20).await;
        seen.insert(breakers(&fleet).await.0);
    }
    let after = (fleet.asked(0, Endpoint::Presence), failed_sweeps(&fleet));
    let tries = after.1 - before.1;
    assert!((20..=250).contains(&tries), "{tries}");
    assert_eq!(after.0 - before.0, tries, "one request each time");
    assert_eq!(
        fleet.asked(0, Endpoint::Batch),
        lookups,
        "and nothing beside it"
    );
    assert!(seen.contains("open"), "{seen:?}");
    assert!(!seen.contains("closed"), "{seen:?}");
    let metrics = fleet.stage.cloud().unwrap().metrics();
    for line in [
        "presence_cloud_breakers{endpoint=\"presence\",state=\"closed\"} 0",
        "presence_cloud_breakers{endpoint=\"token\",state=\"closed\"} 1",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line}");
    }
    fleet.stage.microsoft.clear_faults(None, None);
    let before = fleet.asked(0, Endpoint::Presence);
    while fleet.state(0) != "connected" {
        fleet.pass(SECOND * 20).await;
    }
    let asked = fleet.asked(0, Endpoint::Presence) - before;
    assert!((8..=16).contains(&asked), "{asked}: a sweep or two");
    fleet.pass(SECOND * 20).await;
    assert!(
        fleet.asked(0, Endpoint::Batch) > lookups,
        "now it is looked up"
    );
    let closed = || "closed".to_owned();
    assert_eq!(breakers(&fleet).await, (closed(), closed(), closed()));
}

#[tokio::test(start_paused = true)]
async fn one_batch_that_fails_keeps_no_breaker_open() {
    let keys = vec![("poll", "batch = 1".to_owned())];
    let fleet = Fleet::begin(1, 8, MINUTE, keys).await;
    let microsoft = &fleet.stage.microsoft;
    let unavailable = Fault::Unavailable { retry_after: None };
    microsoft.set_fault(unavailable, Scope::All, None);
    while fleet.state(0) != "degraded" {
        fleet.pass(SECOND * 20).await;
    }
    microsoft.clear_faults(None, None);
    // Of the request that would be the first of each sweep.
    let people = fleet.members[0].0.people();
    let id = people.iter().map(|person| person.id.0).min().unwrap();
    let poison = Fault::PoisonUser { id, status: 503 };
    microsoft.set_fault(poison, Scope::All, None);
    let fresh = || {
        let view = fleet.members[0].1.handle.view();
        view.counts(fleet.stage.clock.now()).fresh
    };
    let mut steps = 0;
    while fresh() != 7 || breakers(&fleet).await.0 != "closed" {
        fleet.pass(SECOND * 20).await;
        steps += 1;
        assert!(
            steps < 60,
            "{} fresh, {:?}",
            fresh(),
            breakers(&fleet).await
        );
    }
    let before = fleet.asked(0, Endpoint::Presence);
    for _ in 0..30 {
        fleet.pass(SECOND * 20).await;
        assert_eq!(breakers(&fleet).await.0, "closed");
    }
    let asked = fleet.asked(0, Endpoint::Presence) - before;
    assert!((72..=88).contains(&asked), "{asked}: eight a minute");
}

/// Requests in any thirty seconds, from what was asked by the end of each second.
fn busiest(by_second: &[u64]) -> u64 {
    let in_window = |w: &[u64]| w[w.len() - 1] - w[0];
    by_second.windows(31).map(in_window).max().unwrap_or(0)
}

#[tokio::test(start_paused = true)]
async fn whatever_microsoft_answers_the_budget_holds() {
    // Twelve in thirty seconds: less than is wanted.
    let keys = vec![
        ("poll", "batch = 1".to_owned()),
        ("poll", "presence_requests_per_30s = 20".to_owned()),
    ];
    let fleet = Fleet::begin(1, 8, SECOND * 5, keys).await;
    let asked = || fleet.asked(0, Endpoint::Presence) + fleet.asked(0, Endpoint::Users);
    for name in [
        "",
        "server-error",
        "gateway-html",
        "endless-pages",
        "flapping-401",
        "token-expired",
        "garbage-json",
        "error-in-ok",
    ] {
        // Each strikes a service that is well and suspects nothing.
        while fleet.state(0) != "connected" || breakers(&fleet).await.0 != "closed" {
            fleet.pass(SECOND).await;
        }
        if !name.is_empty() {
            let microsoft = &fleet.stage.microsoft;
            microsoft.set_fault(fault(name), Scope::Endpoint(Endpoint::Presence), None);
            microsoft.set_fault(fault(name), Scope::Endpoint(Endpoint::Users), None);
        }
        let mut by_second = vec![asked()];
        for _ in 0..120 {
            fleet.pass(SECOND).await;
            by_second.push(asked());
        }
        let most = busiest(&by_second);
        assert!((1..=12).contains(&most), "{name}: {most} in 30 seconds");
        fleet.stage.microsoft.clear_faults(None, None);
    }
}

#[tokio::test(start_paused = true)]
async fn throttled_for_hours_one_organisation_is_left_alone_and_the_others_notice_nothing() {
    // The first is throttled, the second shares the service with it, the third is what the second is compared with.
    let fleet = Fleet::begin(3, 4, MINUTE, Vec::new()).await;
    let id = fleet.members[0].0.id();
    for endpoint in [Endpoint::Presence, Endpoint::Batch] {
        let throttle = Fault::Throttle { retry_after: 3600 };
        let scope = Scope::TenantEndpoint(id, endpoint);
        fleet.stage.microsoft.set_fault(throttle, scope, None);
    }
    let asked = |n| fleet.asked(n, Endpoint::Presence);
    let begun = [asked(0), asked(1), asked(2)];
    let mut oldest = [Duration::ZERO; 3];
    for _ in 0..6 * 60 {
        fleet.pass(MINUTE).await;
        for (n, oldest) in oldest.iter_mut().enumerate() {
            *oldest = (*oldest).max(fleet.oldest(n));
        }
    }
    let [throttled, other, undisturbed] = [0, 1, 2].map(|n| asked(n) - begun[n]);
    assert!((5..=7).contains(&throttled), "{throttled}: once an hour");
    assert!(
        other.abs_diff(undisturbed) <= 2,
        "{other} and {undisturbed}"
    );
    assert!((355..=362).contains(&other), "{other}: once a minute");
    assert!(oldest[0] >= HOUR * 5, "{oldest:?}");
    assert!(
        oldest[1] <= MINUTE * 3 && oldest[2] <= MINUTE * 3,
        "{oldest:?}"
    );
    assert_eq!(fleet.state(0), "degraded");
    for n in [1, 2] {
        assert_eq!(fleet.state(n), "connected");
        assert!(fleet.is_fresh(n));
    }
    fleet.stage.microsoft.clear_faults(None, None);
    let begun = [asked(0), asked(1)];
    let mut minutes = 0;
    while !fleet.is_fresh(0) {
        fleet.pass(MINUTE).await;
        minutes += 1;
        assert!(minutes <= 67, "it was told an hour, and up to a tenth more");
    }
    assert_eq!(fleet.state(0), "connected");
    let [back, other] = [0, 1].map(|n| asked(n) - begun[n]);
    assert!(back <= 3, "{back}: nothing is made up for");
    assert!(other.abs_diff(minutes) <= 2, "{other} in {minutes} minutes");
}

#[tokio::test(start_paused = true)]
async fn all_of_microsoft_is_away_for_a_day_and_comes_back_without_a_burst() {
    const SIZE: usize = 30;
    let fleet = Fleet::begin(SIZE, 2, MINUTE, Vec::new()).await;
    let microsoft = &fleet.stage.microsoft;
    // For some it says so, for the others it is silent.
    for (n, (tenant, _)) in fleet.members.iter().enumerate() {
        let delay_ms = 3_600_000;
        let (graph, entra) = if n % 2 == 0 {
            let unavailable = Fault::Unavailable { retry_after: None };
            (unavailable, Fault::EntraUnavailable)
        } else {
            (Fault::Slow { delay_ms }, Fault::SlowToken { delay_ms })
        };
        let scope = Scope::Tenant(tenant.id());
        microsoft.set_fault(graph, scope, None);
        microsoft.set_fault(entra, scope, None);
    }
    let asked = |n| fleet.asked(n, Endpoint::Presence) + fleet.asked(n, Endpoint::Token);
    let begun: Vec<u64> = (0..SIZE).map(asked).collect();
    for _ in 0..24 * 12 {
        fleet.pass(MINUTE * 5).await;
    }
    for (n, begun) in begun.iter().enumerate() {
        assert_eq!(fleet.state(n), "degraded");
        assert!(!fleet.is_fresh(n));
        // At least hourly, and not more than each step of time allows: one try, of a token.
        let tries = asked(n) - begun;
        assert!((24..=340).contains(&tries), "{n}: {tries} tries in a day");
    }
    // Wherever each is in its pause.
    for _ in 0..30 {
        fleet.pass(SECOND * 10).await;
    }
    microsoft.clear_faults(None, None);
    let tokens = fleet.asked_of_all(Endpoint::Token);
    let readings = || -> Vec<u64> {
        let of = |n| fleet.asked(n, Endpoint::Presence);
        (0..SIZE).map(of).collect()
    };
    let before = readings();
    // Presence and token requests of all, by the end of each second; and who is back.
    let all = || fleet.asked_of_all(Endpoint::Token) + fleet.asked_of_all(Endpoint::Presence);
    let (mut by_second, mut back) = (vec![all()], vec![0]);
    for _ in 0..420 {
        fleet.pass(SECOND).await;
        by_second.push(all());
        let now = readings();
        back.push(now.iter().zip(&before).filter(|(now, b)| now > b).count());
    }
    let in_a_second = by_second.windows(2).map(|w| w[1] - w[0]).max().unwrap();
    assert!(in_a_second <= 12, "{in_a_second} requests in a second");
    let soon = back[10];
    assert!(soon <= SIZE / 3, "{soon} were back within ten seconds");
    let at_most = back.windows(11).map(|w| w[10] - w[0]).max().unwrap();
    assert!(
        at_most <= SIZE / 3,
        "{at_most} came back within ten seconds"
    );
    assert_eq!(*back.last().unwrap(), SIZE, "all are back");
    // A token each, and a reading a minute from then on.
    assert_eq!(fleet.asked_of_all(Endpoint::Token) - tokens, SIZE as u64);
    for (n, (now, before)) in readings().iter().zip(&before).enumerate() {
        assert!((1..=9).contains(&(now - before)), "{n}: {now} {before}");
        assert_eq!(fleet.state(n), "connected");
        assert!(fleet.is_fresh(n));
    }
}

#[tokio::test(start_paused = true)]
async fn all_throttled_at_once_without_a_time_do_not_come_back_at_once() {
    const SIZE: usize = 20;
    let fleet = Fleet::begin(SIZE, 1, MINUTE * 2, Vec::new()).await;
    let throttle = Fault::ThrottleNoRetryAfter;
    fleet.stage.microsoft.set_fault(throttle, Scope::All, None);
    // Until each has been throttled often enough to wait for a quarter of an hour.
    for _ in 0..60 {
        fleet.pass(MINUTE).await;
    }
    let mut by_second = vec![fleet.asked_of_all(Endpoint::Presence)];
    for _ in 0..200 {
        fleet.pass(SECOND * 10).await;
        by_second.push(fleet.asked_of_all(Endpoint::Presence));
    }
    let most = by_second.windows(2).map(|w| w[1] - w[0]).max().unwrap();
    assert!(
        (1..=SIZE as u64 / 2).contains(&most),
        "{most} in ten seconds"
    );
}
