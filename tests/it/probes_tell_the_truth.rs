//! `/livez` and `/readyz`: ok, degraded with a name, failed with a name, and draining.

use std::time::Duration;

use presence_bridge::simulator::{Fault, FaultParams, Scope};
use presence_bridge::world::{World, WorldSettings};
use serde_json::Value;
use sqlx::{Connection as _, SqliteConnection};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use url::Url;

use crate::support::stage::{Stage, quick, until};

async fn ask(base: &Url, path: &str) -> Option<(u16, Value)> {
    let answer = reqwest::get(base.join(path).unwrap()).await.ok()?;
    let status = answer.status().as_u16();
    Some((status, answer.json().await.ok()?))
}

/// Waits for an answer with this status, whose state is this, and that names this check with this state.
pub async fn until_ready(world: &World, status: u16, state: &str, check: (&str, &str)) -> Value {
    let mut last = Value::Null;
    for _ in 0..600 {
        if let Some((found, report)) = ask(&world.operators_url(), "/readyz").await {
            let named = report["checks"].as_array().unwrap().iter().any(|one| {
                (one["name"].as_str(), one["state"].as_str()) == (Some(check.0), Some(check.1))
            });
            if named && found == status && report["state"] == state {
                return report;
            }
            last = report;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never {status} {state} {check:?}: {last}");
}

fn why(report: &Value, check: &str) -> String {
    let mut checks = report["checks"].as_array().unwrap().iter();
    let check = checks.find(|one| one["name"] == check).unwrap();
    check["why"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn what_is_wrong_is_named_and_over_when_it_is_over() {
    let stage = Stage::new(quick()).await;
    let report = until_ready(&stage, 200, "ok", ("tenants", "ok")).await;
    let names = report["checks"].as_array().unwrap().iter();
    let names: Vec<_> = names.filter_map(|check| check["name"].as_str()).collect();
    assert_eq!(
        names,
        [
            "store",
            "key ring",
            "credentials",
            "listeners",
            "tenants",
            "microsoft"
        ]
    );
    let (status, live) = ask(&stage.operators_url(), "/livez").await.unwrap();
    assert_eq!((status, live["state"].as_str()), (200, Some("ok")));
    let live = live["checks"].as_array().unwrap().iter();
    let live: Vec<_> = live.filter_map(|check| check["name"].as_str()).collect();
    for name in [
        "runtime",
        "gRPC listener",
        "web listener",
        "operators' listener",
        "keeper",
    ] {
        assert!(live.contains(&name), "{name} is not in {live:?}");
    }

    // Microsoft is away for everybody: said, and served.
    let tenant = stage.tenant("contoso.example", 3).await;
    let suite = stage.watching_all(&tenant, "a").await;
    suite.until_all_fresh().await;
    let away = Fault::parse("server-error", &FaultParams::default()).unwrap();
    stage.microsoft.set_fault(away, Scope::All, None);
    let report = until_ready(&stage, 200, "degraded", ("microsoft", "degraded")).await;
    assert!(why(&report, "microsoft").contains("no tenant"), "{report}");
    stage.microsoft.clear_faults(None, None);
    stage
        .connect(
            &tenant,
            presence_bridge::cloud::store::ConnectionKind::Organisation,
        )
        .await
        .unwrap();
    until_ready(&stage, 200, "ok", ("microsoft", "ok")).await;

    // The key ring is away.
    let (key, aside) = (stage.folder().join("key"), stage.folder().join("key.aside"));
    std::fs::rename(&key, &aside).unwrap();
    let report = until_ready(&stage, 503, "failed", ("key ring", "failed")).await;
    assert!(
        !report
            .to_string()
            .contains(stage.folder().to_str().unwrap()),
        "{report}"
    );
    std::fs::rename(&aside, &key).unwrap();
    until_ready(&stage, 200, "ok", ("key ring", "ok")).await;

    // Somebody else holds the database: it can be read, and not written.
    let database = stage.folder().join("cloud.db");
    let mut other = SqliteConnection::connect(&format!("sqlite://{}", database.display()))
        .await
        .unwrap();
    sqlx::query("BEGIN IMMEDIATE")
        .execute(&mut other)
        .await
        .unwrap();
    let report = until_ready(&stage, 503, "failed", ("store", "failed")).await;
    assert!(!why(&report, "store").is_empty());
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    other.close().await.unwrap();
    until_ready(&stage, 200, "ok", ("store", "ok")).await;
    // It was alive all the time.
    assert_eq!(ask(&stage.operators_url(), "/livez").await.unwrap().0, 200);
}

#[tokio::test]
async fn a_credential_of_ours_that_has_ended_harms_nobody_beside_a_good_one() {
    let settings = |ends: &str| WorldSettings {
        cloud_keys: vec![(
            "[microsoft.credential]",
            format!("client_secret_file = \"client-secret\"\nends = \"{ends}\""),
        )],
        ..quick()
    };
    // The other credential, in [microsoft], does not tell when it ends, and is taken for good.
    let stage = Stage::new(settings("2020-01-01")).await;
    until_ready(&stage, 200, "ok", ("credentials", "ok")).await;
}

#[tokio::test]
async fn who_says_good_bye_is_not_ready() {
    let mut stage = Stage::new(quick()).await;
    until_ready(&stage, 200, "ok", ("tenants", "ok")).await;
    // Half a request keeps the listener for suites busy saying good-bye.
    let mut half = TcpStream::connect(stage.grpc_address()).await.unwrap();
    half.write_all(b"GET / HTTP/1.1\r\nHost: cloud\r\n")
        .await
        .unwrap();
    let connected = || {
        stage
            .cloud()
            .unwrap()
            .metrics()
            .contains("presence_cloud_connections_open{listener=\"grpc\"} 1")
    };
    until("half a request has come", connected).await;
    let base = stage.operators_url();
    let (ended, mut last) = (stage.world.stop_cloud(), None);
    tokio::pin!(ended);
    let refused = loop {
        tokio::select! {
            () = &mut ended => break false,
            answer = ask(&base, "/readyz") => {
                let draining = answer.as_ref().is_some_and(|(status, report)| {
                    *status == 503 && report["checks"][0]["name"] == "draining"
                });
                if draining {
                    break true;
                }
                last = answer;
            }
        }
    };
    assert!(refused, "never draining; last {last:?}");
    drop(half);
    ended.await;
}
