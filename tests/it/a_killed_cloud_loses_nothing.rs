//! The real program, killed without warning and started again.

use presence_bridge::cloud::store::ConnectionKind;

use crate::support::program::{Program, operator, until_answered};
use crate::support::stage::{Stage, quick, until, upns};

#[tokio::test]
async fn suites_resume_by_themselves_and_no_change_and_no_credential_is_lost() {
    let mut stage = Stage::new(quick()).await;
    let tenant = stage
        .tenant_by("contoso.example", 20, ConnectionKind::ServiceAccount)
        .await;
    let identity = stage.enroll(tenant.id(), "a").await.unwrap();
    stage.world.stop_cloud().await;
    let upn = upns(&tenant)[7].clone();
    let mut program = Program::serve(stage.folder());
    let suite = crate::support::stage::Watcher::new(stage.run_suite(identity, upns(&tenant)));
    suite.until_all_fresh().await;
    for word in ["Busy", "Away", "DoNotDisturb", "Offline", "Available"] {
        program.kill();
        until("the suite knows that it is alone", || !suite.is_fresh(&upn)).await;
        tenant.set_presence(&upn, word, word);
        program = Program::serve(stage.folder());
        suite.until_holds(&upn, word).await;
        suite.until_all_fresh().await;
        assert_eq!(suite.status().unwrap().state, "connected");
    }
}

#[tokio::test]
async fn a_second_service_on_the_same_database_does_not_start() {
    let mut stage = Stage::new(quick()).await;
    stage.tenant("contoso.example", 1).await;
    stage.world.stop_cloud().await;
    let _first = Program::serve(stage.folder());
    let ready = stage.operators_url().join("/readyz").unwrap();
    until_answered(ready).await;
    let (well, said) = operator(stage.folder(), &["serve"]).await;
    assert!(!well && said.contains("serves from"), "{said}");
}
