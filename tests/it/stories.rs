//! What happens to a connection over days, told from the beginning to the end: what the suite is told at every stage, how often
//! Microsoft is asked meanwhile, that another organisation notices nothing, and how it ends.

use std::time::Duration;

use presence_bridge::cloud::store::ConnectionKind::{self, Organisation, ServiceAccount};
use presence_bridge::simulator::{AppRegistration, Endpoint, Fault, FaultParams, Scope};

use crate::support::time::{Days, STEP};

const HOUR: Duration = Duration::from_hours(1);

/// No access token lives longer.
const TOKEN_LIFE: Duration = Duration::from_mins(90);

/// Asked hourly for a day, and daily from then on. One try may be two calls: the newest refresh token, and the one before.
async fn is_asked_ever_more_rarely(days: &Days) {
    let day = days.asked_during(HOUR * 22).await;
    assert!((20..=48).contains(&(day.tokens + day.presence)), "{day:?}");
    days.pass(HOUR * 4).await;
    let later = days.asked_during(HOUR * 30).await;
    assert!(
        (1..=8).contains(&(later.tokens + later.presence)),
        "{later:?}"
    );
}

/// A refusal by Entra is noticed when the access token is to be renewed, ahead of its end: then the suite is told, while everybody is
/// fresh. Presence is read as long as the token lasts, and Entra is hardly asked.
async fn lasts_as_long_as_the_access_token(days: &Days, cause: &str) {
    let before = days.asked();
    days.pass(STEP).await;
    days.all_is_well();
    let mut waited = STEP;
    while days.state() == "connected" {
        assert!(days.is_fresh());
        days.pass(STEP).await;
        waited += STEP;
        assert!(waited <= TOKEN_LIFE / 2 + STEP * 2, "it is not noticed");
    }
    days.assert_told("degraded", cause, "");
    assert!(days.is_fresh(), "it is told before it breaks");
    while days.is_fresh() {
        days.pass(STEP).await;
        waited += STEP;
        assert!(waited <= TOKEN_LIFE + STEP * 5, "it never ends");
    }
    let asked = days.asked().tokens - before.tokens;
    assert!(asked <= 6, "{asked} requests for tokens");
}

/// The whole story of a grant that Entra no longer honours, to the new sign-in that ends it.
async fn until_signed_in_anew(change: impl Fn(&Days), state: &str, cause: &str, remedy: &str) {
    let days = Days::begin(ServiceAccount).await;
    change(&days);
    lasts_as_long_as_the_access_token(&days, cause).await;
    days.assert_told(state, cause, remedy);
    days.assert_stale();
    is_asked_ever_more_rarely(&days).await;
    days.assert_told(state, cause, remedy);
    days.assert_stale();
    days.control_is_well().await;
    reconnect(&days, ServiceAccount).await;
}

/// What the operator's command line does after the customer signed in again.
async fn reconnect(days: &Days, kind: ConnectionKind) {
    days.tenant.enable_person(&days.account());
    days.stage.connect(&days.tenant, kind).await.unwrap();
    days.recovers().await;
}

/// It worked and goes on working: a day later, all is well and tokens were fetched at their pace.
async fn goes_on_for_a_day(days: &Days) {
    let day = days.asked_during(HOUR * 24).await;
    days.all_is_well();
    assert!((16..=60).contains(&day.tokens), "{day:?}");
}

#[tokio::test(start_paused = true)]
async fn consent_is_withdrawn_and_given_again() {
    let days = Days::begin(Organisation).await;
    days.tenant.withdraw_consent(days.stage.client_id());
    days.pass(STEP * 2).await;
    days.assert_told(
        "needs administrator",
        "permission is missing",
        "administrator approve",
    );
    days.assert_stale();
    is_asked_ever_more_rarely(&days).await;
    days.assert_told("needs administrator", "removed", "Connect again");
    days.assert_stale();
    days.control_is_well().await;
    reconnect(&days, Organisation).await;
    goes_on_for_a_day(&days).await;
}

#[tokio::test(start_paused = true)]
async fn the_application_is_removed_from_the_organisation_of_a_service_account() {
    let days = Days::begin(ServiceAccount).await;
    days.tenant.remove_application(days.stage.client_id());
    days.pass(STEP * 2).await;
    days.assert_told("needs administrator", "permission is missing", "approve");
    days.assert_stale();
    is_asked_ever_more_rarely(&days).await;
    days.assert_told("needs re-authorization", "withdrawn", "Reconnect");
    days.assert_stale();
    reconnect(&days, ServiceAccount).await;
}

#[tokio::test(start_paused = true)]
async fn the_application_is_disabled_and_enabled_again() {
    let days = Days::begin(Organisation).await;
    let client = days.stage.client_id();
    days.tenant.enable_application(client, false);
    lasts_as_long_as_the_access_token(&days, "disabled").await;
    days.assert_told("needs administrator", "disabled", "Enable it");
    days.assert_stale();
    days.asked_during(HOUR * 5).await;
    days.tenant.enable_application(client, true);
    days.pass(HOUR).await;
    days.recovers().await;
}

#[tokio::test(start_paused = true)]
async fn the_account_is_disabled() {
    until_signed_in_anew(
        |days| assert!(days.tenant.disable_person(&days.account())),
        "needs administrator",
        "was disabled",
        "Re-enable it",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_account_is_disabled_for_an_hour_only() {
    let days = Days::begin(ServiceAccount).await;
    days.tenant.disable_person(&days.account());
    lasts_as_long_as_the_access_token(&days, "was disabled").await;
    days.assert_told("needs administrator", "was disabled", "");
    days.tenant.enable_person(&days.account());
    days.pass(HOUR + STEP).await;
    days.recovers().await;
}

#[tokio::test(start_paused = true)]
async fn the_administrator_resets_the_password() {
    until_signed_in_anew(
        |days| assert!(days.tenant.reset_password(&days.account())),
        "needs re-authorization",
        "revoked",
        "reconnect",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_change_of_password_by_its_owner_is_not_even_noticed() {
    let days = Days::begin(ServiceAccount).await;
    assert!(days.tenant.change_password(&days.account()));
    goes_on_for_a_day(&days).await;
}

#[tokio::test(start_paused = true)]
async fn a_second_factor_is_demanded() {
    until_signed_in_anew(
        |days| assert!(days.tenant.demand_mfa(&days.account(), true)),
        "needs re-authorization",
        "multi-factor",
        "complete it",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn our_secret_expires_and_nobody_of_the_customers_is_bothered() {
    let days = Days::begin(Organisation).await;
    let (microsoft, client) = (&days.stage.microsoft, days.stage.client_id());
    let secret = std::fs::read_to_string(days.stage.folder().join("client-secret")).unwrap();
    microsoft.expire_secret(client, &secret);
    lasts_as_long_as_the_access_token(&days, "on our side").await;
    days.pass(HOUR).await;
    for suite in [&days.suite, &days.control_suite] {
        let status = suite.status().unwrap();
        assert_eq!(status.state, "degraded");
        assert!(status.cause.contains("on our side"), "{status:?}");
        assert!(status.remedy.contains("need not do anything"));
    }
    days.assert_stale();
    let day = days.asked_during(HOUR * 24).await;
    assert!((20..=48).contains(&day.tokens), "{day:?}");
    assert_eq!(day.presence, 0, "without a token nothing is read");
    assert_eq!(days.state(), "degraded");
    days.assert_stale();
    // The secret is prolonged.
    microsoft.register_app(AppRegistration {
        client_id: client,
        secrets: vec![secret],
        ..AppRegistration::default()
    });
    days.pass(HOUR + STEP).await;
    days.recovers().await;
}

#[tokio::test(start_paused = true)]
async fn entra_is_down_for_a_day() {
    let days = Days::begin(ServiceAccount).await;
    let scope = Scope::Tenant(days.tenant.id());
    let microsoft = &days.stage.microsoft;
    microsoft.set_fault(Fault::EntraUnavailable, scope, None);
    days.pass(STEP * 2).await;
    days.all_is_well();
    let mut waited = Duration::ZERO;
    while days.state() == "connected" {
        days.pass(STEP).await;
        waited += STEP;
        assert!(waited <= TOKEN_LIFE + STEP * 3, "it is never noticed");
    }
    days.assert_told("degraded", "does not answer", "Nothing to do");
    // By age, the last values are stale half an hour later at the latest: three readings were missed.
    days.pass(STEP * 4).await;
    days.assert_stale();
    days.pass(HOUR * 21).await;
    days.assert_told("degraded", "does not answer", "Nothing to do");
    days.assert_stale();
    days.control_is_well().await;
    microsoft.clear_faults(None, None);
    let before = days.asked();
    days.recovers().await;
    let after = days.asked();
    assert_eq!(after.tokens - before.tokens, 1, "no burst");
    assert!(after.presence - before.presence <= 12, "no burst");
    goes_on_for_a_day(&days).await;
}

fn fault(name: &str) -> Fault {
    Fault::parse(name, &FaultParams::default()).unwrap()
}

/// Graph refuses the access token, whatever we do, for hours; then it accepts it again.
async fn graph_refuses_tokens(refusal: Fault) {
    let days = Days::begin(ServiceAccount).await;
    let scope = Scope::Tenant(days.tenant.id());
    let microsoft = &days.stage.microsoft;
    microsoft.set_fault(refusal, scope, None);
    days.pass(STEP * 6).await;
    let told = ("needs re-authorization", "does not accept the access");
    days.assert_told(told.0, told.1, "sign in again");
    days.assert_stale();
    let asked = days.asked_during(HOUR * 5).await;
    assert!(asked.tokens <= 6 && asked.presence <= 12, "{asked:?}");
    days.assert_told(told.0, told.1, "sign in again");
    days.control_is_well().await;
    microsoft.clear_faults(None, None);
    days.pass(HOUR).await;
    days.recovers().await;
    goes_on_for_a_day(&days).await;
}

#[tokio::test(start_paused = true)]
async fn a_claims_challenge_is_no_reason_to_ask_in_a_loop() {
    graph_refuses_tokens(fault("claims-challenge")).await;
}

#[tokio::test(start_paused = true)]
async fn a_401_out_of_the_blue_costs_neither_the_connection_nor_a_loop() {
    graph_refuses_tokens(fault("flapping-401")).await;
}

#[tokio::test(start_paused = true)]
async fn one_flapping_401_is_not_even_told() {
    let days = Days::begin(ServiceAccount).await;
    let scope = Scope::TenantEndpoint(days.tenant.id(), Endpoint::Presence);
    for _ in 0..10 {
        let microsoft = &days.stage.microsoft;
        microsoft.set_fault(fault("flapping-401"), scope, Some(1));
        days.pass(STEP).await;
        days.all_is_well();
    }
}

#[tokio::test(start_paused = true)]
async fn throttled_without_a_time_it_slows_down_and_recovers_by_itself() {
    let days = Days::begin(Organisation).await;
    let scope = Scope::TenantEndpoint(days.tenant.id(), Endpoint::Presence);
    let microsoft = &days.stage.microsoft;
    microsoft.set_fault(Fault::ThrottleNoRetryAfter, scope, None);
    days.pass(STEP * 2).await;
    days.assert_told("degraded", "slow down", "Nothing to do");
    assert!(days.is_fresh(), "the value is young still");
    let before = days.asked();
    days.pass_in(HOUR * 2, Duration::from_secs(30)).await;
    let asked = days.asked().presence - before.presence;
    assert!((6..=14).contains(&asked), "{asked}: every 15 minutes");
    // Stale by age, though nobody took anything back.
    days.assert_stale();
    assert_eq!(days.state(), "degraded");
    days.control_is_well().await;
    microsoft.clear_faults(None, None);
    days.pass(STEP).await;
    days.recovers().await;
}

/// A pace at which it shows how often Microsoft is asked.
const PACE: Duration = Duration::from_secs(20);

/// Lives ten minutes, the shortest a tenant can configure.
const SHORT_LIFE: Option<u32> = Some(600);

#[tokio::test(start_paused = true)]
async fn while_entra_is_down_it_is_asked_every_few_minutes() {
    let days = Days::at_pace(ServiceAccount, PACE, SHORT_LIFE).await;
    let scope = Scope::Tenant(days.tenant.id());
    let microsoft = &days.stage.microsoft;
    microsoft.set_fault(Fault::EntraUnavailable, scope, None);
    let first = days.asked_during(HOUR / 2).await;
    assert_eq!(days.state(), "degraded");
    assert!((10..=60).contains(&first.tokens), "{first:?}");
    let later = days.asked_during(HOUR).await;
    assert!((12..=60).contains(&later.tokens), "{later:?}");
    assert_eq!(later.presence, 0);
    microsoft.clear_faults(None, None);
    let back = days.asked_during(Duration::from_mins(6)).await;
    // The second is the renewal ahead of time, after half of a short life.
    assert!((1..=2).contains(&back.tokens), "no burst: {back:?}");
    days.recovers().await;
}

#[tokio::test(start_paused = true)]
async fn a_revoked_grant_is_tried_hourly_and_not_more_often_before_the_access_token_ends() {
    let days = Days::at_pace(ServiceAccount, PACE, SHORT_LIFE).await;
    days.tenant.revoke_sessions(&days.account());
    let mut last = days.asked_during(Duration::from_mins(8)).await;
    // Told ahead of the end, and nobody is stale.
    days.assert_told("degraded", "revoked", "reconnect");
    assert!(days.is_fresh());
    assert!(last.tokens <= 2, "{last:?}");
    // The end of the token, a minute for the second try, each with both refresh tokens there are.
    last = days.asked_during(Duration::from_mins(7)).await;
    days.assert_told("needs re-authorization", "revoked", "reconnect");
    assert!(last.tokens <= 4, "{last:?}");
    last = days.asked_during(Duration::from_mins(55)).await;
    assert!(last.tokens <= 2, "{last:?}");
    assert_eq!(last.presence, 0);
}

async fn refused_tokens_are_replaced_rarely(refusal: Fault) {
    let days = Days::at_pace(Organisation, PACE, None).await;
    let scope = Scope::TenantEndpoint(days.tenant.id(), Endpoint::Presence);
    days.stage.microsoft.set_fault(refusal, scope, None);
    let first = days.asked_during(Duration::from_mins(9)).await;
    assert!(first.tokens <= 20 && first.presence <= 60, "{first:?}");
    days.assert_told("degraded", "does not accept the access", "Nothing to do");
    days.pass(HOUR / 2).await;
    days.assert_told(
        "needs administrator",
        "does not accept the access",
        "administrator",
    );
    // It may be an approval that is on its way; then hourly.
    let hour = days.asked_during(HOUR).await;
    assert!(hour.tokens <= 5 && hour.presence <= 10, "{hour:?}");
    days.stage.microsoft.clear_faults(None, None);
    days.pass(HOUR).await;
    days.recovers().await;
}

#[tokio::test(start_paused = true)]
async fn challenged_for_hours_tokens_are_replaced_rarely() {
    refused_tokens_are_replaced_rarely(fault("claims-challenge")).await;
}

#[tokio::test(start_paused = true)]
async fn refused_for_hours_tokens_are_replaced_rarely() {
    refused_tokens_are_replaced_rarely(fault("flapping-401")).await;
}

/// Names are looked up daily. What goes wrong with that costs nobody presence, and the connection is not blamed.
async fn only_names_are_in_trouble(refusal: &str, endpoint: Endpoint) {
    let days = Days::begin(Organisation).await;
    let scope = Scope::TenantEndpoint(days.tenant.id(), endpoint);
    days.stage.microsoft.set_fault(fault(refusal), scope, None);
    let before = days.count(Endpoint::Batch).total;
    for _ in 0..6 * 28 {
        days.pass(STEP).await;
        days.all_is_well();
    }
    let asked = days.count(Endpoint::Batch).total - before;
    assert!((2..=40).contains(&asked), "{asked} lookups");
    days.control_is_well().await;
}

#[tokio::test(start_paused = true)]
async fn throttled_lookups_do_not_stop_presence() {
    only_names_are_in_trouble("throttle-no-retry-after", Endpoint::Batch).await;
}

#[tokio::test(start_paused = true)]
async fn forbidden_lookups_do_not_stop_presence() {
    only_names_are_in_trouble("forbidden", Endpoint::Batch).await;
}

#[tokio::test(start_paused = true)]
async fn names_that_may_not_be_looked_up_again_are_read_as_before() {
    only_names_are_in_trouble("forbidden", Endpoint::BatchItem).await;
}
