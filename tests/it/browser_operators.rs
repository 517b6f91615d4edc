//! The operators' pages in a real browser: in both widths, light and dark, with the keyboard's names, without JavaScript, and live.

use presence_bridge::secret::Secret;
use presence_bridge::simulator::{Fault, FaultParams, Scope};

use crate::alerts_are_told::told;
use crate::operators_sign_in::{PASSWORD, guarded};
use crate::support::browser::Browser;
use crate::support::receivers::{Hook, MailServer};
use crate::support::stage::{Stage, quick, upns};

pub async fn sign_in(browser: &Browser, stage: &Stage) {
    browser.goto(stage.operators_url()).await;
    browser.type_into("#password", PASSWORD).await;
    browser.press("Sign in").await;
    browser.wait_for(".grid").await;
}

pub async fn pictures(browser: &Browser, name: &str) {
    for dark in [false, true] {
        browser.dark(dark).await;
        browser.desktop().await;
        browser.screenshot(name).await;
        browser.phone().await;
        browser.screenshot(name).await;
    }
    browser.dark(false).await;
    browser.desktop().await;
    let serious: Vec<String> = browser
        .axe()
        .await
        .iter()
        .filter(|v| v.impact == "serious" || v.impact == "critical")
        .map(ToString::to_string)
        .collect();
    assert!(serious.is_empty(), "{name}: {}", serious.concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_mixed_health_and_changes_without_reloading() {
    let stage = guarded().await;
    let mut watchers = Vec::new();
    let mut tenants = Vec::new();
    for name in ["contoso", "fabrikam", "tailspin", "wingtip", "adatum"] {
        let tenant = stage.tenant(&format!("{name}.example"), 20).await;
        let mut names = upns(&tenant);
        if name == "wingtip" {
            names.push("left.long.ago@wingtip.example".into());
        }
        watchers.push(stage.watching(&tenant, name, names).await);
        tenants.push(tenant);
    }
    watchers[0].until_all_fresh().await;
    let forbidden = Fault::parse("forbidden", &FaultParams::default()).unwrap();
    tenants[1].withdraw_consent(stage.client_id());
    stage
        .microsoft
        .set_fault(forbidden, Scope::Tenant(tenants[1].id()), None);
    watchers[1].until_state("needs administrator").await;

    let browser = Browser::start().await;
    browser.goto(stage.operators_url()).await;
    pictures(&browser, "operators-sign-in").await;
    sign_in(&browser, &stage).await;
    pictures(&browser, "operators-overview").await;

    // Somebody else pauses a tenant: it is seen without a reload, and what has the focus keeps it.
    browser
        .evaluate("window.stays = true; document.querySelector('#q').focus()")
        .await;
    let by = presence_bridge::cloud::store::Actor::Operator("ann".into());
    let operations = stage.cloud().unwrap().operations();
    operations.pause(&by, tenants[2].id()).await.unwrap();
    browser.wait_for_text("suspended").await;
    let kept = "window.stays === true && document.activeElement.id === 'q'";
    assert_eq!(browser.evaluate(kept).await, serde_json::json!(true));

    browser.type_into("#q", "fabrikam").await;
    browser.press("Show").await;
    browser.wait_for_url("q=fabrikam").await;
    assert_eq!(browser.count("tbody tr").await, 1);
    browser.press("fabrikam.example").await;
    browser.wait_for_text("What was done").await;
    pictures(&browser, "operators-tenant").await;
    browser.press("Invite a suite").await;
    browser.wait_for("#secret").await;
    pictures(&browser, "operators-invite").await;
    for (page, css) in [("suites", ".grid"), ("audit", ".grid"), ("alerts", "h1")] {
        browser
            .goto(stage.operators_url().join(page).unwrap())
            .await;
        browser.wait_for(css).await;
        pictures(&browser, &format!("operators-{page}")).await;
    }

    let plain = browser.without_javascript().await;
    sign_in(&plain, &stage).await;
    plain.press("Tenant").await;
    plain.wait_for_url("sort=name").await;
    plain.press("contoso.example").await;
    plain.press("Pause").await;
    plain.wait_for_url("done=paused").await;
    watchers[0].until_state("suspended").await;
    plain.quit().await;
    browser.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_send_a_link_and_try_out_who_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut hook = Hook::new(folder.path());
    let mail = MailServer::start(folder.path(), None);
    let mut settings = quick();
    settings.operators_password = Some(Secret::new(PASSWORD));
    settings.cloud_keys = told(&hook, &mail, &folder, &[]);
    let stage = Stage::new(settings).await;
    let tenant = stage.tenant("contoso.example", 3).await;
    let browser = Browser::start().await;
    sign_in(&browser, &stage).await;
    browser.press("contoso.example").await;
    browser.wait_for("#email").await;
    pictures(&browser, "operators-tenant-with-mail").await;
    browser.type_into("#email", "it@customer.example").await;
    browser.press("Send a link").await;
    browser.wait_for_text("The link was sent.").await;
    assert_eq!(mail.taken().len(), 1);
    // Something has happened and is over, something else has not.
    let operations = stage.cloud().unwrap().operations();
    tenant.withdraw_consent(stage.client_id());
    let suite = stage.watching_all(&tenant, "Berlin").await;
    let scope = Scope::Tenant(tenant.id());
    let forbidden = Fault::parse("forbidden", &FaultParams::default()).unwrap();
    stage.microsoft.set_fault(forbidden, scope, None);
    suite.until_state("needs administrator").await;
    let alerts = stage.operators_url().join("alerts").unwrap();
    browser.goto(&alerts).await;
    browser.wait_for_text("needs its administrator").await;
    hook.start();
    browser.press("Send a test to all").await;
    browser.wait_for_text("The test has arrived.").await;
    hook.stop();
    let by = presence_bridge::cloud::store::Actor::Operator("ann".into());
    operations.pause(&by, tenant.id()).await.unwrap();
    browser.goto(&alerts).await;
    browser.wait_for(".alerts .over").await;
    browser.press("Send a test to all").await;
    browser.wait_for_text("cannot connect").await;
    pictures(&browser, "operators-alerts-told").await;
    browser.quit().await;
}
