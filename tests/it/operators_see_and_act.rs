//! What operators see of tenants and suites, and that what they do takes effect and is entered into the audit log.

use std::time::Duration;

use presence_bridge::cloud::operations::view::Attention;
use presence_bridge::cloud::operations::{OperationError, Operations};
use presence_bridge::cloud::store::Actor;
use presence_bridge::model::SuiteId;
use presence_bridge::simulator::{Fault, FaultParams, Scope, Tenant};

use crate::support::stage::{Stage, quick, until, upns};

fn by() -> Actor {
    Actor::Operator("ann".into())
}

fn operations(stage: &Stage) -> &Operations {
    stage.cloud().unwrap().operations()
}

/// What was done to a tenant, oldest first, and by whom.
async fn deeds(stage: &Stage, tenant: &Tenant) -> Vec<(String, String)> {
    let log = operations(stage).audit(Some(tenant.id()), None, 100).await;
    let entries = log.unwrap().into_iter().rev();
    entries
        .map(|entry| (entry.action, entry.actor_kind))
        .collect()
}

#[tokio::test]
async fn who_needs_somebody_comes_first_with_cause_and_correlation_id_and_the_history_is_kept() {
    let mut stage = Stage::new(quick()).await;
    let well = stage.tenant("alpha.example", 3).await;
    let broken = stage.tenant("zulu.example", 3).await;
    let mut names = upns(&well);
    names.push("nobody@alpha.example".into());
    let suite = stage.watching(&well, "Berlin", names).await;
    let other = stage.watching_all(&broken, "Paris").await;
    suite.until_holds(&upns(&well)[0], "Available").await;
    other.until_all_fresh().await;
    broken.withdraw_consent(stage.client_id());
    let forbidden = Fault::parse("forbidden", &FaultParams::default()).unwrap();
    stage
        .microsoft
        .set_fault(forbidden, Scope::Tenant(broken.id()), None);
    other.until_state("needs administrator").await;

    let overview = operations(&stage).overview().await.unwrap();
    let (first, second) = (&overview.tenants[0], &overview.tenants[1]);
    assert_eq!((first.id, first.attention), (broken.id(), Attention::Now));
    assert_eq!((second.id, second.attention), (well.id(), Attention::None));
    assert!(!first.health.cause.is_empty() && !first.health.remedy.is_empty());
    assert!(
        !first.health.correlation_id.is_empty(),
        "{:?}",
        first.health
    );
    let live = second.live.as_ref().unwrap();
    assert_eq!((live.coverage.watched, live.coverage.monitored), (4, 3));
    assert!(live.budget_used > 0 && live.last_read.is_some() && live.token_ends_at.is_some());
    assert_eq!((second.suites, second.suites_connected), (1, 1));

    let detail = operations(&stage).tenant(well.id()).await.unwrap().unwrap();
    assert_eq!(detail.reasons.len(), 1);
    assert_eq!(
        (detail.reasons[0].reason.as_str(), detail.reasons[0].people),
        ("not_found", 1)
    );
    assert_eq!(
        detail.uncovered[0].person, "n…@alpha.example",
        "nobody is named"
    );
    let shown = &detail.suites[0];
    assert!(shown.connected && shown.watched == 4 && shown.agent.is_some());

    // It is written down, so that it is there after a restart too.
    let history = loop {
        let history = stage_history(&stage, &broken).await;
        if history
            .first()
            .is_some_and(|last| last.0 == "needs administrator")
        {
            break history;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(history.iter().any(|(state, ..)| state == "connected"));
    assert!(!history[0].1.is_empty(), "the correlation id is kept");
    stage.world.stop_cloud().await;
    stage.world.start_cloud().await.unwrap();
    let after = stage_history(&stage, &broken).await;
    assert!(after.ends_with(&history), "{after:?} {history:?}");
}

/// States and correlation ids, newest first.
async fn stage_history(stage: &Stage, tenant: &Tenant) -> Vec<(String, String)> {
    let detail = operations(stage).tenant(tenant.id()).await.unwrap();
    let history = detail.unwrap().history.into_iter();
    history.map(|h| (h.state, h.correlation_id)).collect()
}

#[tokio::test]
async fn what_an_operator_does_reaches_the_suites_and_stands_in_the_audit_log() {
    let stage = Stage::new(quick()).await;
    let tenant = stage.tenant("alpha.example", 2).await;
    let suite = stage.watching_all(&tenant, "Berlin").await;
    suite.until_all_fresh().await;
    let (id, operations) = (tenant.id(), operations(&stage));

    operations.pause(&by(), id).await.unwrap();
    suite.until_state("suspended").await;
    operations.resume(&by(), id).await.unwrap();
    suite.until_state("connected").await;
    let reads = stage.presence_requests(&tenant);
    operations.refresh(&by(), id).await.unwrap();
    until("presence is read again", || {
        stage.presence_requests(&tenant) > reads
    })
    .await;
    let link = operations.relink(&by(), id, Duration::from_hours(1)).await;
    let stay = reqwest::redirect::Policy::none();
    let browser = reqwest::Client::builder().redirect(stay).build().unwrap();
    let opened = browser.get(link.unwrap().url.expose()).send().await;
    let opened = opened.unwrap();
    assert_eq!(opened.headers()["location"], "/status", "the link is good");
    let invited = operations.invite(&by(), id, Duration::from_hours(1)).await;
    assert!(
        invited
            .unwrap()
            .command
            .starts_with("presence-agent enroll")
    );
    let enrolled = operations.suites(Some(id)).await.unwrap()[0].id;
    operations.revoke(&by(), enrolled).await.unwrap();
    until("the suite has lost its stream", || {
        let figures = &operations.figures()[&id];
        figures.of_streams.is_empty()
    })
    .await;
    let not_typed = operations.offboard(&by(), id, "alpha").await;
    assert!(matches!(not_typed, Err(OperationError::NotConfirmed(_))));
    let receipt = operations.offboard(&by(), id, "alpha.example").await;
    assert_eq!(receipt.unwrap().data_keys.len(), 1);
    for refused in [
        operations.pause(&by(), id).await,
        operations.refresh(&by(), id).await,
    ] {
        assert!(matches!(refused, Err(OperationError::Gone(_))));
    }
    let nobody = operations.revoke(&by(), SuiteId::random()).await;
    assert!(matches!(nobody, Err(OperationError::NoSuite(_))));

    let operator = |action: &str| (action.to_owned(), "operator".to_owned());
    let mut done = deeds(&stage, &tenant).await;
    let first: Vec<_> = done.drain(..3).collect();
    assert_eq!(
        first.iter().map(|d| d.0.as_str()).collect::<Vec<_>>(),
        ["tenant.connected", "suite.invited", "suite.enrolled"],
    );
    assert_eq!(
        done,
        [
            operator("tenant.paused"),
            operator("tenant.resumed"),
            operator("tenant.refreshed"),
            operator("link.made"),
            operator("suite.invited"),
            operator("suite.revoked"),
            operator("tenant.offboarded"),
        ]
    );
}
