//! Operators sign in at an issuer that others have written: who may act acts, who may look looks, all others stay outside.

use presence_bridge::cloud::store::AuditEntry;

use crate::probes_tell_the_truth::until_ready;
use crate::support::browser::Browser;
use crate::support::issuer::{Issuer, PASSWORD, stage_at};
use crate::support::program::operator;
use crate::support::receivers::free_port;
use crate::support::stage::Stage;
use crate::support::visitor::{Page, Visitor};

/// Through the issuer and back, as this person.
async fn through(issuer: &Issuer, visitor: &Visitor, name: &str) -> Page {
    visitor.get("/sign-in").await;
    let sent = visitor.get("/sign-in/issuer").await;
    assert_eq!(sent.status, 303, "{}", sent.body);
    let back = issuer.sign_in(&sent.location(), name).await;
    visitor.get(&back).await
}

async fn entries(stage: &Stage, action: &str) -> Vec<AuditEntry> {
    let operations = stage.cloud().unwrap().operations();
    let mut log = operations.audit(None, None, 1000).await.unwrap();
    log.retain(|entry| entry.action == action);
    log
}

#[tokio::test]
async fn an_operator_acts_a_viewer_looks_and_a_stranger_is_told_so() {
    let (issuer, stage) = Issuer::with_stage().await;
    let tenant = stage.tenant("alpha.example", 1).await;
    let of_tenant = format!("/tenants/{}", tenant.id());
    let acts = [
        "pause",
        "resume",
        "refresh",
        "link",
        "send-link",
        "invite",
        "offboard",
    ];

    let operator = Visitor::at(stage.operators_url());
    let page = operator.get("/sign-in").await;
    assert!(
        page.body.contains("Sign in with 127.0.0.1"),
        "{}",
        page.body
    );
    assert!(!page.body.contains("type=\"password\""));
    let home = through(&issuer, &operator, "olga").await;
    assert_eq!(
        (home.status, home.location().as_str()),
        (303, "/"),
        "{}",
        home.body
    );
    assert!(operator.get(&of_tenant).await.body.contains("/pause"));
    let paused = operator.post(&format!("{of_tenant}/pause"), &[]).await;
    assert!(paused.location().ends_with("done=paused"));

    let viewer = Visitor::at(stage.operators_url());
    assert_eq!(through(&issuer, &viewer, "victor").await.location(), "/");
    for path in ["/", "/suites", "/alerts", "/audit"] {
        let page = viewer.get(path).await;
        assert_eq!(
            (
                page.status,
                page.body.matches("<form method=\"post\"").count()
            ),
            (200, 1),
            "{path}"
        );
    }
    assert!(
        viewer
            .get(&of_tenant)
            .await
            .body
            .contains("can see, not act")
    );
    for act in acts {
        let answer = viewer
            .post(&format!("{of_tenant}/{act}"), &[("typed", "alpha.example")])
            .await;
        assert_eq!(answer.status, 403, "{act}");
    }
    for path in ["/alerts/test", "/audit/export"] {
        assert_eq!(
            viewer.post(path, &[("format", "csv")]).await.status,
            403,
            "{path}"
        );
    }

    let stranger = Visitor::at(stage.operators_url());
    let refused = through(&issuer, &stranger, "nora").await;
    assert_eq!(refused.status, 403);
    assert!(
        refused
            .body
            .contains("nora.staff, but that account is not allowed"),
        "{}",
        refused.body
    );
    assert_eq!(stranger.get("/").await.location(), "/sign-in");

    let began = entries(&stage, "operator.signed-in").await;
    let names: Vec<&str> = began.iter().map(|entry| entry.actor.as_str()).collect();
    assert_eq!(names, ["victor.staff", "olga.staff"], "newest first");
    assert!(
        began[0]
            .detail
            .contains("viewer, subject victor at 127.0.0.1"),
        "{}",
        began[0].detail
    );
    let refused = entries(&stage, "operator.refused").await;
    assert_eq!(refused.len(), 1);
    assert!(
        refused[0].detail.contains("neither operator nor viewer"),
        "{}",
        refused[0].detail
    );
    let paused = entries(&stage, "tenant.paused").await;
    assert_eq!(paused[0].actor, "olga.staff");
}

#[tokio::test]
async fn signing_out_ends_the_session_and_leads_to_the_issuer() {
    let (issuer, stage) = Issuer::with_stage().await;
    let visitor = Visitor::at(stage.operators_url());
    through(&issuer, &visitor, "olga").await;
    visitor.get("/").await;
    let before = visitor.cookies();
    assert_eq!(
        visitor.post("/sign-out", &[]).await.location(),
        "/signed-out"
    );
    let page = visitor.get("/signed-out").await;
    assert!(
        page.body.contains("/oauth/end_session?client_id=presence"),
        "{}",
        page.body
    );
    visitor.set_cookies(before);
    assert_eq!(visitor.get("/").await.location(), "/sign-in");
}

#[tokio::test]
async fn a_sign_in_is_good_once_in_its_browser_only() {
    let (issuer, stage) = Issuer::with_stage().await;
    let visitor = Visitor::at(stage.operators_url());
    let sent = visitor.get("/sign-in/issuer").await.location();
    let begun = visitor.cookies();
    let back = issuer.sign_in(&sent, "olga").await;

    let foreign = Visitor::at(stage.operators_url());
    foreign.get("/sign-in/issuer").await;
    assert_eq!(foreign.get(&back).await.status, 403, "another browser's");
    assert_eq!(
        Visitor::at(stage.operators_url()).get(&back).await.status,
        403,
        "no browser's"
    );

    assert_eq!(visitor.get(&back).await.location(), "/");
    visitor.set_cookies(begun);
    let again = visitor.get(&back).await;
    assert!(
        again.status == 403 && again.body.contains("was used already"),
        "{}",
        again.body
    );
}

#[tokio::test]
async fn an_issuer_that_is_down_stops_nothing_but_signing_in() {
    let stage = stage_at(&format!("http://127.0.0.1:{}", free_port())).await;
    let visitor = Visitor::at(stage.operators_url());
    until_ready(&stage, 200, "ok", ("tenants", "ok")).await;
    assert_eq!(visitor.get("/sign-in").await.status, 200);
    let page = visitor.get("/sign-in/issuer").await;
    assert_eq!(page.status, 503);
    assert!(
        page.body.contains("127.0.0.1 cannot be used just now"),
        "{}",
        page.body
    );
    assert_eq!(visitor.get("/readyz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_sign_in_with_a_browser_with_and_without_javascript() {
    let (_issuer, stage) = Issuer::with_stage().await;
    stage.tenant("alpha.example", 1).await;
    let browser = Browser::start().await;
    browser.goto(stage.operators_url()).await;
    browser.wait_for_text("Sign in with 127.0.0.1").await;
    for dark in [false, true] {
        browser.dark(dark).await;
        browser.shoot_all("operators-sign-in-issuer").await;
    }
    browser.dark(false).await;
    browser.assert_accessible().await;
    let plain = browser.without_javascript().await;
    for (browser, name, may_act) in [(&browser, "olga", true), (&plain, "victor", false)] {
        browser.goto(stage.operators_url()).await;
        browser.press("Sign in with 127.0.0.1").await;
        browser.type_into("#login", name).await;
        browser.click("button[name=answer]").await;
        browser.type_into("#password", PASSWORD).await;
        browser.press("Sign in").await;
        browser.wait_for(".grid").await;
        browser.press("alpha.example").await;
        browser.wait_for_text("What was done").await;
        let pauses = browser.count("form[action$='/pause']").await;
        assert_eq!(pauses, usize::from(may_act), "{name}");
    }
    plain.quit().await;
    browser.press("Sign out").await;
    browser.wait_for_text("You are signed out").await;
    for dark in [false, true] {
        browser.dark(dark).await;
        browser.shoot_all("operators-signed-out").await;
    }
    browser.dark(false).await;
    browser.assert_accessible().await;
    browser.quit().await;
}

#[tokio::test]
async fn check_warns_of_an_issuer_that_does_not_answer_and_does_not_fail() {
    let (issuer, stage) = Issuer::with_stage().await;
    let check = async || operator(stage.folder(), &["check"]).await;
    let (well, said) = check().await;
    assert!(
        well && said.contains("127.0.0.1 answers as it must"),
        "{said}"
    );
    assert!(said.contains("/sign-in/callback at 127.0.0.1"), "{said}");
    drop(issuer);
    let (well, said) = check().await;
    assert!(
        well && said.contains("WARN  the operators' sign-in: nobody could"),
        "{said}"
    );
}
