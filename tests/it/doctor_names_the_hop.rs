//! `presence-cloud doctor` walks from the sign-in to the listeners and names the hop that fails, why, and what to do; it uses up nothing.

use presence_bridge::cloud::store::ConnectionKind;
use presence_bridge::simulator::{AppRegistration, Endpoint, Fault, FaultParams, Scope};
use serde_json::Value;

use crate::support::program::{Told, told};
use crate::support::stage::{Stage, quick, until};

const HOPS: [&str; 10] = [
    "our credential",
    "sign-in",
    "token",
    "graph",
    "organisation",
    "store",
    "key file",
    "listener: gRPC",
    "listener: web",
    "listener: operators",
];

async fn doctor(stage: &Stage, more: &[&str]) -> Told {
    let arguments = [&["doctor"], more].concat();
    told(stage.folder(), &arguments, &[]).await
}

/// What it says for programs: whether all is well, and each hop with its state.
async fn report(stage: &Stage, more: &[&str]) -> (bool, Vec<Value>) {
    let said = doctor(stage, &[more, &["--json"]].concat()).await;
    let report: Value = serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {said:?}"));
    let ok = report["ok"] == true;
    assert_eq!(said.code, i32::from(!ok), "{said:?}");
    let hops = report["hops"].as_array().unwrap().clone();
    let names: Vec<&str> = hops.iter().map(|h| h["hop"].as_str().unwrap()).collect();
    assert_eq!(names, HOPS);
    (ok, hops)
}

fn in_state<'a>(hops: &'a [Value], state: &str) -> Vec<&'a str> {
    let such = hops.iter().filter(|h| h["state"] == state);
    such.map(|h| h["hop"].as_str().unwrap()).collect()
}

/// Exactly one hop fails, it says what to do, and these were not tried.
fn fails(report: &(bool, Vec<Value>), hop: &str, not_tried: &[&str]) -> String {
    let (ok, hops) = report;
    assert!(!ok);
    assert_eq!(in_state(hops, "failed"), [hop], "{hops:#?}");
    assert_eq!(in_state(hops, "not-tried"), not_tried, "{hops:#?}");
    let failed = hops.iter().find(|h| h["hop"] == hop).unwrap();
    assert!(!failed["to_do"].as_str().unwrap().is_empty(), "{failed}");
    failed["why"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn when_all_is_well_every_hop_is_walked_and_nothing_is_to_be_done() {
    let stage = Stage::new(quick()).await;
    stage.tenant("alpha.example", 1).await;
    let (ok, hops) = report(&stage, &[]).await;
    assert!(ok, "{hops:#?}");
    assert_eq!(in_state(&hops, "ok"), HOPS);
    let said = doctor(&stage, &[]).await;
    assert_eq!((said.code, said.err.as_str()), (0, ""));
    assert!(!said.out.contains("To do"), "{said:?}");
    assert!(said.out.contains("Microsoft was asked by alpha.example"));
}

#[tokio::test]
async fn a_credential_that_others_may_read_is_named_and_nothing_behind_it_is_tried() {
    let stage = Stage::new(quick()).await;
    stage.tenant("alpha.example", 1).await;
    let file = stage.folder().join("client-secret");
    let mut mode = std::fs::metadata(&file).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o644);
    std::fs::set_permissions(&file, mode).unwrap();
    let why = fails(
        &report(&stage, &[]).await,
        "our credential",
        &["sign-in", "token", "graph"],
    );
    assert!(why.contains("chmod 600"), "{why}");
    let said = doctor(&stage, &[]).await;
    assert_eq!(said.code, 1);
    assert!(said.out.starts_with("FAILED") && said.out.contains("To do: "));
}

#[tokio::test]
async fn a_sign_in_that_is_not_reached_is_named() {
    let stage = Stage::new(quick()).await;
    stage.tenant("alpha.example", 1).await;
    let config = stage.folder().join("cloud.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let url = stage.microsoft_url().origin().ascii_serialization();
    // Where nothing listens: port 9 is "discard".
    let elsewhere = text.replacen(
        &format!("login_url = \"{url}"),
        "login_url = \"http://127.0.0.1:9",
        1,
    );
    assert_ne!(text, elsewhere);
    std::fs::write(&config, elsewhere).unwrap();
    fails(&report(&stage, &[]).await, "sign-in", &["token", "graph"]);
}

#[tokio::test]
async fn a_secret_that_microsoft_refuses_is_named_at_the_token() {
    let stage = Stage::new(quick()).await;
    stage.tenant("alpha.example", 1).await;
    stage.microsoft.register_app(AppRegistration {
        client_id: stage.client_id(),
        secrets: vec!["another".into()],
        ..AppRegistration::default()
    });
    let why = fails(&report(&stage, &[]).await, "token", &["graph"]);
    assert!(why.contains("AADSTS7000215"), "{why}");
}

#[tokio::test]
async fn a_paused_organisation_is_named_with_how_it_goes_on() {
    let stage = Stage::new(quick()).await;
    for (domain, kind, not_tried) in [
        ("alpha.example", ConnectionKind::Organisation, &[][..]),
        (
            "beta.example",
            ConnectionKind::ServiceAccount,
            &["token", "graph"],
        ),
    ] {
        let tenant = stage.tenant_by(domain, 1, kind).await;
        let suite = stage.watching_all(&tenant, domain).await;
        suite.until_all_fresh().await;
        told(stage.folder(), &["tenant", "pause", domain], &[]).await;
        suite.until_state("suspended").await;
        let report = report(&stage, &["--tenant", domain]).await;
        let why = fails(&report, "organisation", not_tried);
        assert!(why.contains("paused") && why.contains(domain), "{why}");
        let said = doctor(&stage, &["--tenant", domain]).await;
        let resume = format!("presence-cloud tenant resume {}", tenant.id());
        assert!(said.out.contains(&resume), "{said:?}");
    }
    let (ok, _) = report(&stage, &[]).await;
    assert!(ok, "who asks for none in particular is not told of a pause");
}

#[tokio::test]
async fn a_consent_that_was_withdrawn_is_named_with_who_has_to_act() {
    let stage = Stage::new(quick()).await;
    let tenant = stage.tenant("alpha.example", 1).await;
    let well = stage.tenant("beta.example", 1).await;
    let suite = stage.watching_all(&tenant, "Berlin").await;
    suite.until_all_fresh().await;
    tenant.withdraw_consent(stage.client_id());
    let forbidden = Fault::parse("forbidden", &FaultParams::default()).unwrap();
    let scope = Scope::Tenant(tenant.id());
    stage.microsoft.set_fault(forbidden, scope, None);
    suite.until_state("needs administrator").await;
    let (ok, hops) = report(&stage, &["--tenant", "alpha"]).await;
    assert!(!ok);
    let failed = in_state(&hops, "failed");
    assert!(failed == ["token"] || failed == ["graph"], "{hops:#?}");
    // One remedy, the operator's, wherever it is asked for; the suite's administrator is asked for his own.
    let failed = hops.iter().find(|h| h["hop"] == failed[0]).unwrap();
    let shown = told(stage.folder(), &["tenant", "show", "alpha", "--json"], &[]).await;
    let remedy = shown.json()["health"]["remedy"].clone();
    assert_eq!(failed["to_do"], remedy);
    let remedy = remedy.as_str().unwrap();
    assert!(remedy.starts_with("Send the customer a link") && remedy.contains("tenant relink"));
    let theirs = suite.status().unwrap().remedy;
    assert!(
        remedy.ends_with(&theirs) && !theirs.contains("relink"),
        "{theirs}"
    );
    let (ok, hops) = report(&stage, &["--tenant", well.domain()]).await;
    assert!(ok, "another organisation is well: {hops:#?}");
}

#[tokio::test]
async fn a_database_that_is_not_there_is_named() {
    let mut stage = Stage::new(quick()).await;
    stage.tenant("alpha.example", 1).await;
    stage.world.stop_cloud().await;
    let database = stage.folder().join("cloud.db");
    std::fs::remove_file(&database).unwrap();
    let (ok, hops) = report(&stage, &[]).await;
    assert!(
        !ok && in_state(&hops, "failed").contains(&"store"),
        "{hops:#?}"
    );
    assert!(!database.exists(), "it is not made by looking");
}

#[tokio::test]
async fn without_a_service_the_listeners_are_named_and_no_refresh_token_is_spent() {
    let mut stage = Stage::new(quick()).await;
    let tenant = stage
        .tenant_by("alpha.example", 2, ConnectionKind::ServiceAccount)
        .await;
    let suite = stage.watching_all(&tenant, "Berlin").await;
    suite.until_all_fresh().await;
    let spent = || {
        let requests = stage.microsoft.requests();
        requests.of(tenant.id(), Endpoint::Token).total
    };
    let before = spent();
    let (ok, hops) = report(&stage, &[]).await;
    assert!(ok, "the service is asked what it knows: {hops:#?}");
    assert_eq!(in_state(&hops, "ok"), HOPS);
    assert_eq!(spent(), before);
    stage.world.stop_cloud().await;
    let (ok, hops) = report(&stage, &[]).await;
    assert!(!ok);
    assert_eq!(in_state(&hops, "failed"), HOPS[7..]);
    assert_eq!(in_state(&hops, "not-tried"), ["token", "graph"]);
    let requests = stage.microsoft.requests();
    assert_eq!(requests.of(tenant.id(), Endpoint::Token).total, before);
    stage.world.start_cloud().await.unwrap();
    until("the service is back", || stage.cloud().is_some()).await;
}
