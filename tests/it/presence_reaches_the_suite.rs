//! The main job: what Microsoft says of watched people reaches the suites that watch them, and nobody else.

use presence_bridge::cloud::store::ConnectionKind;
use presence_bridge::model::CoverageState;
use presence_bridge::simulator::Endpoint;

use crate::support::stage::{Stage, quick, until, upns};

#[tokio::test]
async fn a_change_at_microsoft_reaches_every_suite_that_watches() {
    let stage = Stage::new(quick()).await;
    let tenant = stage.tenant("contoso.example", 20).await;
    let (a, b) = (
        stage.watching_all(&tenant, "a").await,
        stage.watching_all(&tenant, "b").await,
    );
    a.until_all_fresh().await;
    b.until_all_fresh().await;
    let upn = &upns(&tenant)[3];
    tenant.set_presence(upn, "Busy", "InACall");
    a.until_holds(upn, "Busy").await;
    b.until_holds(upn, "Busy").await;
    assert_eq!(a.status().unwrap().state, "connected");
}

#[tokio::test]
async fn both_kinds_of_connection_read_presence() {
    let stage = Stage::new(quick()).await;
    for (domain, kind) in [
        ("a.example", ConnectionKind::Organisation),
        ("b.example", ConnectionKind::ServiceAccount),
    ] {
        let tenant = stage.tenant_by(domain, 5, kind).await;
        stage
            .watching_all(&tenant, domain)
            .await
            .until_all_fresh()
            .await;
    }
}

#[tokio::test]
async fn two_thousand_people_are_four_requests_a_sweep_and_seven_lookups() {
    let stage = Stage::new(quick()).await;
    let tenant = stage.tenant("contoso.example", 2_000).await;
    let suite = stage.watching_all(&tenant, "a").await;
    suite.until_all_fresh().await;
    let counts = stage.microsoft.requests();
    assert_eq!(
        counts.of(tenant.id(), Endpoint::Batch).total,
        7,
        "300 names a batch"
    );
    assert_eq!(counts.of(tenant.id(), Endpoint::Users).total, 0);
    let sweeps = || stage.cloud().unwrap().figures()[0].1.sweeps;
    let (first, before) = (sweeps(), stage.presence_requests(&tenant));
    until("five more sweeps are done", || sweeps() >= first + 5).await;
    let (done, after) = (sweeps() - first, stage.presence_requests(&tenant) - before);
    // The first and the last sweep may be counted in part.
    assert!(
        after >= (done - 1) * 4 && after <= (done + 1) * 4,
        "{after} requests in {done} sweeps"
    );
    assert!(stage.microsoft.requests().largest_ids <= 650);
}

#[tokio::test]
async fn nobody_watching_means_no_requests() {
    let stage = Stage::new(quick()).await;
    let tenant = stage.tenant("contoso.example", 5).await;
    let suite = stage.watching_all(&tenant, "a").await;
    suite.until_all_fresh().await;
    suite.handle.replace(Vec::new());
    let figures = || stage.cloud().unwrap().figures()[0].1.clone();
    until("the cloud has heard of it", || {
        figures().coverage.watched == 0
    })
    .await;
    let other = stage.tenant("other.example", 5).await;
    let before = stage.presence_requests(&tenant);
    // Time passes: another tenant is read several times.
    let second = stage.watching_all(&other, "b").await;
    second.until_all_fresh().await;
    let begun = stage.presence_requests(&other);
    until("the other tenant was read five times", || {
        stage.presence_requests(&other) >= begun + 5
    })
    .await;
    assert!(
        stage.presence_requests(&tenant) <= before + 1,
        "at most the sweep that was under way"
    );
}

#[tokio::test]
async fn a_watch_list_can_change_while_the_stream_runs() {
    let stage = Stage::new(quick()).await;
    let tenant = stage.tenant("contoso.example", 10).await;
    let all = upns(&tenant);
    let suite = stage.watching(&tenant, "a", all[..3].to_vec()).await;
    suite.until_all_fresh().await;
    suite.handle.replace(all[2..6].to_vec());
    suite.until_all_fresh().await;
    until("exactly the new list is held", || {
        suite.handle.view().people().count() == 4
    })
    .await;
    tenant.set_presence(&all[5], "Away", "Away");
    suite.until_holds(&all[5], "Away").await;
}

#[tokio::test]
async fn every_name_is_covered_or_it_is_said_why_not() {
    let stage = Stage::new(quick()).await;
    let tenant = stage.tenant("contoso.example", 3).await;
    let known = upns(&tenant);
    let mut names = known.clone();
    let guest = tenant.add_guest("visitor@elsewhere.example").upn;
    names.extend([
        guest.clone(),
        "nobody@contoso.example".into(),
        "not a name".into(),
    ]);
    let suite = stage.watching(&tenant, "a", names).await;
    suite
        .until_covers("nobody@contoso.example", CoverageState::NotFound)
        .await;
    suite.until_covers(&guest, CoverageState::Guest).await;
    suite
        .until_covers("not a name", CoverageState::Invalid)
        .await;
    for upn in &known {
        suite.until_covers(upn, CoverageState::Monitored).await;
    }
}

#[tokio::test]
async fn a_suite_learns_nothing_of_another_tenant() {
    let stage = Stage::new(quick()).await;
    let (a, b) = (
        stage.tenant("a.example", 3).await,
        stage.tenant("b.example", 3).await,
    );
    let foreign = upns(&b)[0].clone();
    stage.watching_all(&b, "b").await.until_all_fresh().await;
    let unknown = "nobody@b.example".to_owned();
    let mut names = upns(&a);
    names.extend([foreign.clone(), unknown.clone()]);
    let spy = stage.watching(&a, "a", names).await;
    for name in [&foreign, &unknown] {
        spy.until_covers(name, CoverageState::NotFound).await;
        assert_eq!(spy.holds(name), "");
    }
    let detail = |name: &str| {
        spy.handle
            .view()
            .person(name)
            .unwrap()
            .coverage
            .clone()
            .unwrap()
    };
    assert_eq!(
        detail(&foreign),
        detail(&unknown),
        "the same answer, to the letter"
    );
}

#[tokio::test]
async fn a_restarted_cloud_is_found_again_and_nothing_is_lost() {
    let mut stage = Stage::new(quick()).await;
    let tenant = stage
        .tenant_by("contoso.example", 10, ConnectionKind::ServiceAccount)
        .await;
    let suite = stage.watching_all(&tenant, "a").await;
    suite.until_all_fresh().await;
    let upn = upns(&tenant)[0].clone();
    stage.world.stop_cloud().await;
    until("the suite knows that it is alone", || !suite.is_fresh(&upn)).await;
    assert_eq!(
        suite.holds(&upn),
        "Available",
        "the last value is kept, as stale"
    );
    tenant.set_presence(&upn, "DoNotDisturb", "Presenting");
    stage.world.start_cloud().await.unwrap();
    suite.until_holds(&upn, "DoNotDisturb").await;
    suite.until_all_fresh().await;
}
