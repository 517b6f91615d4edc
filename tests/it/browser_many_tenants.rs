//! The operators' pages with as many tenants as a large service has, in mixed health.

use std::collections::BTreeMap;
use std::time::Duration;

use presence_bridge::cloud::store::Actor;
use presence_bridge::cloud::store::ConnectionKind::{Organisation, ServiceAccount};
use presence_bridge::secret::Secret;
use presence_bridge::simulator::{Endpoint, Fault, Scope, Tenant, TenantSpec};
use presence_bridge::world::WorldSettings;
use tokio::time::Instant;

use crate::browser_operators::{pictures, sign_in};
use crate::operators_sign_in::{PASSWORD, signed_in};
use crate::support::browser::Browser;
use crate::support::stage::{Stage, Watcher, quick, upns};

const TENANTS: usize = 500;

/// What happens to the nth tenant.
fn fate(n: usize) -> &'static str {
    match n % 20 {
        3 => "withdrawn",
        7 => "revoked",
        9 => "paused",
        11 => "failing",
        13 => "throttled",
        15 => "watched",
        17 if n.is_multiple_of(3) => "gone",
        _ => "well",
    }
}

async fn many(stage: &Stage) -> Vec<Watcher> {
    let mut tenants: Vec<Tenant> = Vec::new();
    for n in 0..TENANTS {
        let kind = if fate(n) == "revoked" {
            ServiceAccount
        } else {
            Organisation
        };
        let spec = TenantSpec {
            domain: format!("customer-{n:03}.example"),
            name: format!("Customer {n:03}"),
            people: 4,
            ..TenantSpec::default()
        };
        tenants.push(stage.add_tenant(spec, kind).await.unwrap());
    }
    let operations = stage.cloud().unwrap().operations();
    let by = Actor::Operator("olga".into());
    let mut watchers = Vec::new();
    for (n, tenant) in tenants.iter().enumerate() {
        if matches!(
            fate(n),
            "failing" | "throttled" | "watched" | "withdrawn" | "revoked"
        ) {
            watchers.push(stage.watching_all(tenant, &format!("Suite {n:03}")).await);
        }
    }
    for watcher in &watchers {
        watcher.until_all_fresh().await;
    }
    for (n, tenant) in tenants.iter().enumerate() {
        let id = tenant.id();
        let scope = Scope::TenantEndpoint(id, Endpoint::Presence);
        match fate(n) {
            "withdrawn" => {
                tenant.withdraw_consent(stage.client_id());
                stage.microsoft.set_fault(Fault::Forbidden, scope, None);
            }
            "revoked" => {
                assert!(tenant.revoke_sessions(&upns(tenant)[0]));
                stage.microsoft.set_fault(Fault::TokenExpired, scope, None);
            }
            "paused" => operations.pause(&by, id).await.unwrap(),
            "failing" => stage.microsoft.set_fault(Fault::ServerError, scope, None),
            "throttled" => {
                let fault = Fault::Throttle { retry_after: 30 };
                stage.microsoft.set_fault(fault, scope, None);
            }
            "gone" => {
                let row = operations.store().tenant(id).await.unwrap().unwrap();
                operations.offboard(&by, id, &row.name).await.unwrap();
            }
            _ => {}
        }
    }
    watchers
}

fn health_of_all(stage: &Stage) -> BTreeMap<&'static str, usize> {
    let mut count = BTreeMap::new();
    for (_, figures) in stage.cloud().unwrap().figures() {
        *count.entry(figures.health.state.as_str()).or_default() += 1;
    }
    count
}

fn settings() -> WorldSettings {
    let mut settings = quick();
    settings.interval = Duration::from_secs(2);
    settings.operators_password = Some(Secret::new(PASSWORD));
    let keys = [
        "confirm_refusal_after = \"1s\"",
        "probe_refused_every = \"30s\"",
    ];
    settings
        .cloud_keys
        .extend(keys.map(|key| ("poll", key.to_owned())));
    settings
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_tenants_are_seen_at_one_glance() {
    let stage = Stage::new(settings()).await;
    let _watchers = many(&stage).await;
    let begun = Instant::now();
    loop {
        let health = health_of_all(&stage);
        let of = |state: &str| health.get(state).copied().unwrap_or_default();
        if of("needs administrator") >= 20
            && of("needs re-authorization") >= 1
            && of("degraded") >= 40
        {
            eprintln!("after {:.0?}: {health:?}", begun.elapsed());
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(100), "{health:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    let operator = signed_in(&stage).await;
    let mut took = Vec::new();
    for _ in 0..100 {
        let asked = Instant::now();
        let page = operator.get("/").await;
        took.push(asked.elapsed());
        assert_eq!(page.status, 200);
    }
    took.sort_unstable();
    // Told, not asserted: what a machine does in a time is measured, never tested.
    eprintln!(
        "the overview of {TENANTS} tenants: median {:?}, 95 % {:?}",
        took[50], took[95]
    );

    let browser = Browser::start().await;
    sign_in(&browser, &stage).await;
    // Who needs somebody stands first.
    assert_eq!(browser.count(".alerts > li").await, 5);
    assert_eq!(browser.count(".alerts .tag.critical").await, 5);
    let first = browser
        .evaluate("document.querySelector('tbody tr').innerText")
        .await;
    assert!(first.as_str().unwrap().contains("needs"), "{first}");
    pictures(&browser, "operators-many").await;
    browser.assert_nothing_overflows().await;
    let shown = browser.count("tbody tr").await;
    assert!((50..TENANTS).contains(&shown), "{shown} of {TENANTS}");

    browser.type_into("#q", "customer-19").await;
    browser.press("Show").await;
    browser.wait_for_url("q=").await;
    assert_eq!(browser.count("tbody tr").await, 10);
    browser
        .goto(stage.operators_url().join("/?health=suspended").unwrap())
        .await;
    browser.wait_for("tbody tr").await;
    assert_eq!(browser.count("tbody tr").await, TENANTS / 20);
    pictures(&browser, "operators-many-suspended").await;
    browser.quit().await;
}
