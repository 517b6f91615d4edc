//! Who gets in to the operators' pages, who does not, and how every answer is guarded.

use http::Method;
use presence_bridge::cloud::operators::password;
use presence_bridge::secret::Secret;
use presence_bridge::world::{World, WorldSettings};

use crate::support::stage::{Stage, quick};
use crate::support::visitor::Visitor;

pub const PASSWORD: &str = "correct horse battery";

/// A stage with an operators' password, and nobody signed in.
pub async fn guarded() -> Stage {
    let settings = WorldSettings {
        operators_password: Some(Secret::new(PASSWORD)),
        ..quick()
    };
    Stage::new(settings).await
}

pub fn stranger(world: &World) -> Visitor {
    Visitor::at(world.operators_url())
}

pub async fn signed_in(world: &World) -> Visitor {
    let visitor = stranger(world);
    visitor.get("/sign-in").await;
    let answer = visitor.post("/sign-in", &[("password", PASSWORD)]).await;
    assert_eq!((answer.status, answer.location().as_str()), (303, "/"));
    visitor.get("/").await;
    visitor
}

async fn entries(stage: &Stage, action: &str) -> usize {
    let operations = stage.cloud().unwrap().operations();
    let log = operations.audit(None, None, 1000).await.unwrap();
    log.iter().filter(|entry| entry.action == action).count()
}

#[tokio::test]
async fn a_stranger_sees_the_sign_in_page_and_nothing_else() {
    let stage = guarded().await;
    let tenant = stage.tenant("alpha.example", 1).await;
    let visitor = stranger(&stage);
    let of_tenant = format!("/tenants/{}", tenant.id());
    for path in ["/", "/suites", "/alerts", "/audit", of_tenant.as_str()] {
        let page = visitor.get(path).await;
        assert_eq!((page.status, page.location().as_str()), (303, "/sign-in"));
        assert!(!page.body.contains("alpha"));
    }
    let page = visitor.get("/sign-in").await;
    assert!(page.status == 200 && !page.body.contains("alpha"));
    let pause = format!("{of_tenant}/pause");
    assert_eq!(visitor.post(&pause, &[]).await.location(), "/sign-in");
    assert_eq!(entries(&stage, "tenant.paused").await, 0);
}

#[tokio::test]
async fn the_password_lets_in_until_one_signs_out_and_another_password_ends_all_sessions() {
    let stage = guarded().await;
    let visitor = signed_in(&stage).await;
    let before = visitor.cookies();
    assert_eq!(visitor.get("/").await.status, 200);
    assert_eq!(entries(&stage, "operator.signed-in").await, 1);
    visitor.post("/sign-out", &[]).await;
    visitor.set_cookies(before);
    assert_eq!(visitor.get("/").await.location(), "/sign-in");

    let visitor = signed_in(&stage).await;
    let file = stage.folder().join("operators-password");
    password::create(&file, &Secret::new("another horse battery"), true).unwrap();
    assert_eq!(visitor.get("/").await.location(), "/sign-in");
}

#[tokio::test]
async fn whoever_guesses_has_to_wait_and_cannot_fill_the_audit_log() {
    let stage = guarded().await;
    let visitor = stranger(&stage);
    visitor.get("/sign-in").await;
    let mut waits = 0;
    for _ in 0..12 {
        let answer = visitor.post("/sign-in", &[("password", "wrong")]).await;
        assert!([403, 429].contains(&answer.status), "{}", answer.status);
        if answer.status == 429 {
            waits += 1;
            assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
        }
        // A page about a failure has no form; the one of the sign-in page stays good.
        visitor.get("/sign-in").await;
    }
    assert!(waits > 0, "at some time guesses have to wait");
    let refused = entries(&stage, "operator.refused").await;
    assert!((1..=12 - waits).contains(&refused), "{refused}");
}

#[tokio::test]
async fn only_forms_of_our_own_pages_are_taken() {
    let stage = guarded().await;
    let tenant = stage.tenant("alpha.example", 1).await;
    let visitor = signed_in(&stage).await;
    let path = format!("/tenants/{}/pause", tenant.id());
    let form = |csrf: &str| Some(format!("csrf={csrf}").into_bytes());
    let kind = ("content-type", "application/x-www-form-urlencoded");
    let (origin, csrf) = (visitor.origin(), visitor.csrf());
    for headers in [
        vec![kind],
        vec![kind, ("origin", "null")],
        vec![kind, ("origin", "https://evil.example")],
    ] {
        let answer = visitor.send(Method::POST, &path, &headers, form(&csrf));
        assert_eq!(answer.await.status, 403);
    }
    let ours = [kind, ("origin", origin.as_str())];
    for csrf in ["", "x"] {
        let answer = visitor.send(Method::POST, &path, &ours, form(csrf)).await;
        assert_eq!(answer.status, 403);
    }
    assert_eq!(entries(&stage, "tenant.paused").await, 0);
    let answer = visitor.send(Method::POST, &path, &ours, form(&csrf)).await;
    assert_eq!(answer.status, 303, "and that was all that was missing");
}

#[tokio::test]
async fn every_answer_has_its_headers_errors_too() {
    let stage = guarded().await;
    let visitor = signed_in(&stage).await;
    let unknown = format!("/tenants/{}", uuid::Uuid::new_v4());
    for (path, status) in [
        ("/", 200),
        ("/suites", 200),
        ("/alerts", 200),
        ("/audit", 200),
        ("/nowhere", 404),
        (unknown.as_str(), 404),
        ("/tenants/no-id", 404),
        ("/audit?before=x", 400),
    ] {
        let page = visitor.get(path).await;
        assert_eq!(page.status, status, "{path}");
        let csp = page.header("content-security-policy");
        assert!(csp.contains("default-src 'none'"), "{path}: {csp}");
        assert_eq!(page.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(page.header("x-frame-options"), "DENY", "{path}");
        assert_eq!(page.header("cache-control"), "no-store", "{path}");
    }
    for (name, value) in visitor.cookies() {
        let shown = visitor.get("/").await.body;
        assert!(!shown.contains(&value), "{name} is not on the page");
    }
}
