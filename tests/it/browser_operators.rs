//! The operators' pages in a real browser: in both widths, light and dark, with the keyboard's names, without JavaScript, and live.

use presence_bridge::simulator::{Fault, FaultParams, Scope};

use crate::operators_sign_in::{PASSWORD, guarded};
use crate::support::browser::Browser;
use crate::support::stage::{Stage, upns};

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
