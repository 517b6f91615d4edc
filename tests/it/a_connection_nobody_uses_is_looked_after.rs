//! No suite has ever called, and still it is known whether each organisation is connected.

use std::time::Duration;

use presence_bridge::cloud::store::{Actor, ConnectionKind};
use presence_bridge::model::{Health, HealthState};
use presence_bridge::simulator::{Endpoint, Tenant};
use presence_bridge::world::WorldSettings;

use crate::support::stage::{Stage, quick, until, upns};

fn health(stage: &Stage, tenant: &Tenant) -> Option<Health> {
    let figures = stage.cloud()?.figures();
    figures
        .into_iter()
        .find(|(id, _)| *id == tenant.id())
        .map(|(_, figures)| figures.health)
}

async fn until_health(stage: &Stage, tenant: &Tenant, wanted: HealthState) -> Health {
    until(&format!("the tenant is {wanted:?}"), || {
        health(stage, tenant).is_some_and(|health| health.state == wanted)
    })
    .await;
    health(stage, tenant).unwrap()
}

fn quick_to_confirm() -> WorldSettings {
    WorldSettings {
        cloud_keys: vec![("poll", "confirm_refusal_after = \"1s\"".into())],
        ..quick()
    }
}

#[tokio::test]
async fn its_health_is_known_from_the_start_and_what_microsoft_withdraws_is_found_out() {
    let mut stage = Stage::new(quick_to_confirm()).await;
    let organisation = stage.tenant("one.example", 3).await;
    let account = stage
        .tenant_by("two.example", 3, ConnectionKind::ServiceAccount)
        .await;
    for tenant in [&organisation, &account] {
        until_health(&stage, tenant, HealthState::Connected).await;
        assert_eq!(stage.presence_requests(tenant), 0, "nobody is read");
    }
    stage.world.stop_cloud().await;
    organisation.withdraw_consent(stage.client_id());
    account.revoke_sessions(&upns(&account)[0]);
    // The daily exercise, as early as it comes: at the start.
    stage.world.start_cloud().await.unwrap();
    let told = until_health(&stage, &organisation, HealthState::NeedsAdministrator).await;
    assert!(told.cause.is_some());
    let told = until_health(&stage, &account, HealthState::NeedsReauthorization).await;
    let cause = told.cause.unwrap();
    assert!(
        !cause.text.contains("interrupted"),
        "we were not: {}",
        cause.text
    );
    for (tenant, kind) in [
        (&organisation, ConnectionKind::Organisation),
        (&account, ConnectionKind::ServiceAccount),
    ] {
        stage.connect(tenant, kind).await.unwrap();
        until_health(&stage, tenant, HealthState::Connected).await;
    }
}

#[tokio::test]
async fn it_is_not_exercised_again_and_again_and_not_at_all_while_it_is_suspended() {
    let stage = Stage::new(quick()).await;
    let tenant = stage.tenant("one.example", 3).await;
    let other = stage.tenant("two.example", 3).await;
    until_health(&stage, &tenant, HealthState::Connected).await;
    let asked = |tenant: &Tenant| {
        let requests = stage.microsoft.requests();
        requests.of(tenant.id(), Endpoint::Token).total
    };
    let store = stage.store().await.unwrap();
    let set = async |status| {
        let now = presence_bridge::clock::Clock::system().now();
        let done = store
            .set_tenant_status(tenant.id(), status, &Actor::Service, now)
            .await;
        assert!(done.unwrap());
    };
    let before = asked(&tenant);
    set(presence_bridge::cloud::store::TenantStatus::Suspended).await;
    until_health(&stage, &tenant, HealthState::Suspended).await;
    let of_other = asked(&other);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(asked(&tenant), before);
    assert_eq!(asked(&other), of_other, "once is enough for today");
    set(presence_bridge::cloud::store::TenantStatus::Active).await;
    until_health(&stage, &tenant, HealthState::Connected).await;
    assert_eq!(asked(&tenant), before + 1);
    store.close().await;
}
