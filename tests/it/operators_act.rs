//! What operators do by their pages takes effect on connected suites and stands in the audit log; viewers do nothing.

use presence_bridge::cloud::operators::password::Stored;
use presence_bridge::cloud::store::{OperatorSession, Role};
use presence_bridge::model::CoverageState;
use presence_bridge::secret::{random_token, sha256};
use presence_bridge::simulator::Tenant;

use crate::operators_sign_in::{guarded, signed_in, stranger};
use crate::support::stage::{Stage, until, upns};
use crate::support::visitor::Visitor;

/// Somebody who may look and not act.
async fn viewer(stage: &Stage) -> Visitor {
    let secret = random_token();
    let operations = stage.cloud().unwrap().operations();
    let now = operations.now();
    let stored = Stored::read(&stage.folder().join("operators-password")).unwrap();
    let session = OperatorSession {
        operator: "vera".into(),
        role: Role::Viewer,
        proof: stored.proof(),
        created_at: now,
        used_at: now,
    };
    let hash = sha256(secret.as_bytes());
    let store = operations.store();
    store.put_operator_session(hash, &session).await.unwrap();
    let visitor = stranger(stage);
    visitor.set_cookies([("operator".to_owned(), secret)].into());
    visitor
}

async fn deeds(stage: &Stage, tenant: &Tenant) -> Vec<String> {
    let operations = stage.cloud().unwrap().operations();
    let log = operations.audit(Some(tenant.id()), None, 100).await;
    let by_operators = log.unwrap().into_iter().rev();
    let by_operators = by_operators.filter(|entry| entry.actor_kind == "operator");
    by_operators.map(|entry| entry.action).collect()
}

#[tokio::test]
async fn every_act_takes_effect_and_is_entered() {
    let stage = guarded().await;
    let tenant = stage.tenant("alpha.example", 2).await;
    let suite = stage.watching_all(&tenant, "Berlin").await;
    suite.until_all_fresh().await;
    let visitor = signed_in(&stage).await;
    let path = |what: &str| format!("/tenants/{}/{what}", tenant.id());

    for (act, done, state) in [
        ("pause", "paused", "suspended"),
        ("resume", "resumed", "connected"),
    ] {
        let answer = visitor.post(&path(act), &[]).await;
        assert!(answer.location().ends_with(&format!("?done={done}")));
        suite.until_state(state).await;
    }
    let reads = stage.presence_requests(&tenant);
    visitor.post(&path("refresh"), &[]).await;
    until("presence is read again", || {
        stage.presence_requests(&tenant) > reads
    })
    .await;

    let link = visitor.post(&path("link"), &[]).await;
    let pages = stage.web_url().origin().ascii_serialization();
    assert!(link.status == 200 && link.body.contains(&format!("{pages}/s/")));
    assert_eq!(link.header("cache-control"), "no-store");
    let invited = visitor.post(&path("invite"), &[]).await;
    assert!(
        invited.body.contains("presence-agent enroll") && invited.body.contains("[PresenceCloud]")
    );

    let operations = stage.cloud().unwrap().operations();
    let id = operations.suites(Some(tenant.id())).await.unwrap()[0].id;
    let revoke = path(&format!("suites/{id}/revoke"));
    let asked = visitor.get(&revoke).await;
    assert!(asked.body.contains("Revoke Berlin?"));
    let answer = visitor.post(&revoke, &[]).await;
    assert!(answer.location().ends_with("?done=revoked"));
    until("the stream of the suite has ended", || {
        operations
            .figures()
            .get(&tenant.id())
            .is_none_or(|figures| figures.streams == 0)
    })
    .await;

    visitor.get(&path("offboard")).await;
    let wrong = visitor.post(&path("offboard"), &[("typed", "beta")]).await;
    assert!(wrong.status == 200 && wrong.body.contains("role=\"alert\""));
    let receipt = visitor
        .post(&path("offboard"), &[("typed", "alpha.example")])
        .await;
    assert!(receipt.body.contains("Receipt"), "{}", receipt.body);
    assert_eq!(
        deeds(&stage, &tenant).await,
        [
            "tenant.paused",
            "tenant.resumed",
            "tenant.refreshed",
            "link.made",
            "suite.invited",
            "suite.revoked",
            "tenant.offboarded"
        ]
    );
}

#[tokio::test]
async fn a_viewer_sees_everything_and_does_nothing() {
    let stage = guarded().await;
    let tenant = stage.tenant("alpha.example", 2).await;
    let suite = stage.watching_all(&tenant, "Berlin").await;
    suite.until_all_fresh().await;
    let visitor = viewer(&stage).await;
    let page = visitor.get(&format!("/tenants/{}", tenant.id())).await;
    assert_eq!(page.status, 200);
    assert!(page.body.contains("Berlin"));
    assert_eq!(page.body.matches("<form").count(), 1, "only to sign out");
    for act in ["pause", "resume", "refresh", "link", "invite", "offboard"] {
        let path = format!("/tenants/{}/{act}", tenant.id());
        let answer = visitor.post(&path, &[("typed", "alpha.example")]).await;
        assert_eq!(answer.status, 403, "{act}");
    }
    let operations = stage.cloud().unwrap().operations();
    let id = operations.suites(None).await.unwrap()[0].id;
    let revoke = format!("/tenants/{}/suites/{id}/revoke", tenant.id());
    assert_eq!(visitor.get(&revoke).await.status, 403);
    assert_eq!(visitor.post(&revoke, &[]).await.status, 403);
    let export = visitor.post("/audit/export", &[("format", "csv")]).await;
    assert_eq!(export.status, 403);
    assert!(deeds(&stage, &tenant).await.is_empty());
}

#[tokio::test]
async fn who_is_not_read_is_not_shown_as_covered_and_both_pages_have_one_colour() {
    let stage = guarded().await;
    let tenant = stage.tenant("alpha.example", 2).await;
    let mut names = upns(&tenant);
    let suite = stage.watching_all(&tenant, "Berlin").await;
    suite.until_all_fresh().await;
    let visitor = signed_in(&stage).await;
    let (overview, page) = ("/?q=alpha", format!("/tenants/{}", tenant.id()));
    let covered = visitor.get(overview).await.body;
    assert!(
        covered.contains("<td data-label=\"Covered\" class=\"\">2 / 2<svg"),
        "{covered}"
    );
    let covered = visitor.get(&page).await.body;
    assert!(covered.contains("<strong>2 / 2</strong>") && covered.contains("class=\"meter \""));
    // One who is not there: less than all, in the same colour everywhere.
    names.push("nobody@alpha.example".into());
    let other = stage.watching(&tenant, "Paris", names).await;
    other
        .until_covers("nobody@alpha.example", CoverageState::NotFound)
        .await;
    let less = visitor.get(overview).await.body;
    assert!(
        less.contains("<td data-label=\"Covered\" class=\"short\">2 / 3<svg"),
        "{less}"
    );
    assert!(
        visitor
            .get(&page)
            .await
            .body
            .contains("class=\"meter short\"")
    );
    visitor.post(&format!("{page}/pause"), &[]).await;
    suite.until_state("suspended").await;
    let paused = visitor.get(overview).await.body;
    assert!(
        paused.contains("<td data-label=\"Covered\" class=\"short\">not read</td>"),
        "{paused}"
    );
    let paused = visitor.get(&page).await.body;
    assert!(
        paused.contains("nobody of the 3 who are watched is covered"),
        "{paused}"
    );
    assert!(!paused.contains("class=\"meter") && !paused.contains("2 / 3"));
}

#[tokio::test]
async fn an_address_with_a_typo_gets_a_page_with_a_way_back() {
    let stage = guarded().await;
    let tenant = stage.tenant("alpha.example", 1).await;
    let visitor = signed_in(&stage).await;
    let suite = format!("/tenants/{}/suites/xyz/revoke", tenant.id());
    for (path, status) in [
        ("/nowhere", 404),
        ("/tenants/xyz", 404),
        ("/tenants/%FF", 404),
        ("/tenants/xyz/offboard", 404),
        (&suite, 404),
        ("/assets/%FF", 404),
        ("/audit?before=abc", 400),
        ("/audit?tenant=abc", 400),
        ("/?q=a&q=b", 400),
    ] {
        let page = visitor.get(path).await;
        assert_eq!(page.status, status, "{path}: {}", page.body);
        assert!(
            page.header("content-type").starts_with("text/html"),
            "{path}"
        );
        assert!(
            page.body.contains("<a class=\"button\" href=\"/\">"),
            "{path}"
        );
        assert!(
            !page.body.contains("xyz") && !page.body.contains("parse"),
            "{path}"
        );
    }
    let page = visitor.post("/tenants/xyz/pause", &[]).await;
    assert!(
        page.status == 404 && page.body.contains("class=\"button\""),
        "{page:?}"
    );
    let page = stranger(&stage).get("/tenants/xyz").await;
    assert_eq!((page.status, page.location().as_str()), (303, "/sign-in"));
}

#[tokio::test]
async fn a_suite_is_revoked_only_under_its_own_tenant() {
    let stage = guarded().await;
    let alpha = stage.tenant("alpha.example", 1).await;
    let beta = stage.tenant("beta.example", 1).await;
    let _suite = stage.watching_all(&alpha, "Berlin").await;
    let visitor = signed_in(&stage).await;
    let operations = stage.cloud().unwrap().operations();
    let id = operations.suites(Some(alpha.id())).await.unwrap()[0].id;
    let path = format!("/tenants/{}/suites/{id}/revoke", beta.id());
    assert_eq!(visitor.post(&path, &[]).await.status, 404);
    assert!(deeds(&stage, &alpha).await.is_empty());
}

#[tokio::test]
async fn the_overview_is_searched_filtered_sorted_and_not_sent_again_unchanged() {
    let stage = guarded().await;
    for name in ["alpha.example", "beta.example", "gamma.example"] {
        stage.tenant(name, 1).await;
    }
    let visitor = signed_in(&stage).await;
    let rows = async |path: &str| -> Vec<String> {
        let body = visitor.get(path).await.body;
        let rows = body.split("<th scope=\"row\">").skip(1);
        rows.map(|row| row.split(['<', '>']).nth(2).unwrap_or_default().to_owned())
            .collect()
    };
    assert_eq!(rows("/?q=BETA").await, ["beta.example"]);
    assert_eq!(
        rows("/?sort=name&dir=down").await,
        ["gamma.example", "beta.example", "alpha.example"]
    );
    assert!(rows("/?health=gone").await.is_empty());
    for column in [
        "health", "cadence", "budget", "coverage", "suites", "token", "refresh", "alerts", "?",
    ] {
        assert_eq!(rows(&format!("/?sort={column}")).await.len(), 3, "{column}");
    }
    let first = visitor.get("/suites").await;
    let tag = first.header("etag");
    let again = visitor
        .send(
            http::Method::GET,
            "/suites",
            &[("if-none-match", &tag), ("x-live", "1")],
            None,
        )
        .await;
    assert_eq!((again.status, again.body.as_str()), (304, ""));
}

#[tokio::test]
async fn the_audit_log_is_exported_and_that_it_was_stands_in_it() {
    let stage = guarded().await;
    let tenant = stage.tenant("alpha.example", 1).await;
    let visitor = signed_in(&stage).await;
    visitor
        .post(&format!("/tenants/{}/pause", tenant.id()), &[])
        .await;
    let shown = visitor.get("/audit").await.body;
    let named = format!(
        "<a href=\"/audit?tenant={}\">alpha.example</a>",
        tenant.id()
    );
    assert!(shown.contains(&named), "{shown}");
    let csv = visitor.post("/audit/export", &[("format", "csv")]).await;
    assert!(csv.header("content-disposition").starts_with("attachment"));
    assert!(csv.body.contains("\"audit.exported\"") && csv.body.contains("\"tenant.paused\""));
    let jsonl = visitor.post("/audit/export", &[("format", "jsonl")]).await;
    let lines: Vec<serde_json::Value> = jsonl
        .body
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines[0]["action"], "audit.exported");
    assert!(lines.iter().any(|line| line["action"] == "tenant.paused"));
}
