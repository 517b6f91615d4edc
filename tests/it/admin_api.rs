//! Programs see and do by the admin API what operators see and do on their pages; nobody else does.

use http::Method;
use presence_bridge::cloud::operators::api;
use presence_bridge::cloud::store::Role;
use presence_bridge::secret::KeyFile;
use presence_bridge::simulator::Tenant;
use serde_json::json;

use crate::operators_sign_in::{guarded, signed_in};
use crate::support::asker::{self, Asker, problem, proof, proof_at, proof_for};
use crate::support::stage::{Stage, quick, until};
use crate::support::visitor::Page;

/// What was done to a tenant by operators, in order: who, and what.
async fn deeds(stage: &Stage, tenant: Option<&Tenant>, kind: &str) -> Vec<(String, String)> {
    let operations = stage.cloud().unwrap().operations();
    let log = operations.audit(tenant.map(Tenant::id), None, 500).await;
    let log = log.unwrap().into_iter().rev();
    log.filter(|entry| entry.actor_kind == kind)
        .map(|entry| (entry.actor, entry.action))
        .collect()
}

#[tokio::test]
async fn every_act_takes_effect_and_is_entered_under_the_name_of_its_token() {
    let stage = Stage::new(quick()).await;
    let tenant = stage.tenant("alpha.example", 2).await;
    let suite = stage.watching_all(&tenant, "Berlin").await;
    suite.until_all_fresh().await;
    let asker = Asker::of(&stage, Role::Operator).await;
    let path = |what: &str| format!("/tenants/{}/{what}", tenant.id());

    for (act, status, state) in [
        ("pause", "suspended", "suspended"),
        ("resume", "active", "connected"),
    ] {
        let answer = asker.post(&path(act), "").await;
        assert_eq!(asker::json(&answer)["status"], status);
        suite.until_state(state).await;
    }
    let reads = stage.presence_requests(&tenant);
    assert_eq!(asker.post(&path("refresh"), "{}").await.status, 200);
    until("presence is read again", || {
        stage.presence_requests(&tenant) > reads
    })
    .await;
    let link = asker::json(&asker.post(&path("link"), r#"{"days":1}"#).await);
    let pages = stage.web_url().origin().ascii_serialization();
    let url = link["url"].as_str().unwrap();
    assert!(url.starts_with(&format!("{pages}/s/")));
    let invited = asker::json(&asker.post(&path("invite"), "").await);
    let command = invited["command"].as_str().unwrap();
    assert!(command.starts_with("presence-agent enroll"));

    let suites = asker::json(&asker.get("/suites").await);
    let id = suites["suites"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(suites["suites"][0]["connected"], true);
    let revoked = asker.post(&format!("/suites/{id}/revoke"), "").await;
    assert_eq!(asker::json(&revoked)["status"], "revoked");
    let operations = stage.cloud().unwrap().operations();
    until("the stream of the suite has ended", || {
        operations
            .figures()
            .get(&tenant.id())
            .is_none_or(|figures| figures.streams == 0)
    })
    .await;

    let wrong = asker.post(&path("offboard"), r#"{"confirm":"beta"}"#).await;
    assert_eq!(problem(&wrong, 409), "not-confirmed");
    let right = r#"{"confirm":"alpha.example"}"#;
    let receipt = asker.post(&path("offboard"), right).await;
    let text = asker::json(&receipt)["text"].to_string();
    assert!(text.contains("1 destroyed"), "{text}");
    let again = asker.post(&path("offboard"), right).await;
    assert_eq!(problem(&again, 409), "off-boarded");
    let actions = [
        "tenant.paused",
        "tenant.resumed",
        "tenant.refreshed",
        "link.made",
        "suite.invited",
        "suite.revoked",
        "tenant.offboarded",
    ];
    let by = |action: &str| ("token operator".to_owned(), action.to_owned());
    assert_eq!(
        deeds(&stage, Some(&tenant), "operator").await,
        actions.map(by)
    );
}

#[tokio::test]
async fn a_viewer_sees_everything_and_does_nothing() {
    let stage = Stage::new(quick()).await;
    let tenant = stage.tenant("alpha.example", 2).await;
    let suite = stage.watching_all(&tenant, "Berlin").await;
    suite.until_all_fresh().await;
    let asker = Asker::of(&stage, Role::Viewer).await;
    let id = tenant.id();
    for path in [
        "/me",
        "/overview",
        "/tenants",
        "/suites",
        "/alerts",
        "/audit",
        "/credentials",
        &format!("/tenants/{id}"),
        &format!("/tenants/{id}/suites"),
    ] {
        assert_eq!(asker.get(path).await.status, 200, "{path}");
    }
    let suites = asker::json(&asker.get("/suites").await);
    let suite = suites["suites"][0]["id"].as_str().unwrap().to_owned();
    let mut acts: Vec<String> = ["pause", "resume", "refresh", "link", "invite", "offboard"]
        .iter()
        .map(|act| format!("/tenants/{id}/{act}"))
        .collect();
    acts.extend([
        format!("/suites/{suite}/revoke"),
        format!("/tenants/{id}/send-link"),
        "/alerts/test".into(),
        "/audit/export".into(),
        "/api-tokens".into(),
    ]);
    for path in acts {
        let answer = asker.post(&path, r#"{"confirm":"alpha.example"}"#).await;
        assert_eq!(problem(&answer, 403), "only-operators", "{path}");
    }
    assert_eq!(asker.get("/api-tokens").await.status, 403);
    let revoke = asker.send(Method::DELETE, "/api-tokens/viewer", &[], None);
    assert_eq!(revoke.await.status, 403);
    assert!(deeds(&stage, None, "operator").await.is_empty());
}

#[tokio::test]
async fn a_stranger_sees_nothing_not_even_which_addresses_there_are() {
    let stage = guarded().await;
    let tenant = stage.tenant("alpha.example", 1).await;
    let stranger = Asker::stranger(&stage);
    let told = stranger.get("/me").await;
    assert!(
        told.header("www-authenticate")
            .starts_with("Bearer realm=\"presence-cloud\"")
    );
    let of_tenant = format!("/tenants/{}", tenant.id());
    let nobody = "/tenants/00000000-0000-4000-8000-000000000000";
    for path in [&of_tenant, nobody, "/tenants/x", "/nowhere", "", "/suites"] {
        for method in [Method::GET, Method::POST, Method::DELETE, Method::OPTIONS] {
            let answer = stranger.send(method.clone(), path, &[], None).await;
            assert_eq!(problem(&answer, 401), "not-signed-in", "{method} {path}");
            assert_eq!(answer.body, told.body, "all refusals look alike");
        }
    }
    // Who is signed in to the pages is a stranger here: a browser cannot be made to ask anything.
    let browser = signed_in(&stage).await;
    let pause = format!("/api/v1{of_tenant}/pause");
    assert_eq!(
        problem(&browser.get("/api/v1/me").await, 401),
        "not-signed-in"
    );
    assert_eq!(browser.post(&pause, &[]).await.status, 401);
    // The description is the same for everybody, and for everybody.
    let described = stranger.get("/openapi.yaml").await;
    assert_eq!(
        (described.status, described.body.as_str()),
        (200, api::DESCRIPTION)
    );
}

#[tokio::test]
async fn whoever_guesses_has_to_wait_while_right_tokens_are_let_in() {
    let stage = Stage::new(quick()).await;
    let right = Asker::of(&stage, Role::Viewer).await;
    let guesser = Asker::with(&stage, "pbt_guessed");
    let mut refused = 0;
    let wait = loop {
        let answer = guesser.get("/overview").await;
        if answer.status == 429 {
            assert_eq!(problem(&answer, 429), "too-many-tries");
            break answer.header("retry-after").parse::<u64>().unwrap();
        }
        assert_eq!(problem(&answer, 401), "not-signed-in");
        refused += 1;
        assert!(refused < 10, "nobody had to wait");
    };
    assert!(wait >= 1);
    assert_eq!(right.get("/me").await.status, 200);
    let entered = deeds(&stage, None, "operator").await;
    let expected = ("not signed in".to_owned(), "operator.refused".to_owned());
    assert_eq!(entered, vec![expected; refused], "nobody fills the log");
}

#[tokio::test]
async fn tokens_are_made_listed_and_revoked_by_operators() {
    let stage = Stage::new(quick()).await;
    let asker = Asker::of(&stage, Role::Operator).await;
    let wish = r#"{"name":"reports","role":"viewer","days":30}"#;
    let made = asker.post("/api-tokens", wish).await;
    assert_eq!(made.status, 201);
    let made = asker::json(&made);
    let token = made["token"].as_str().unwrap();
    assert!(token.starts_with("pbt_") && token.len() == 47);
    let again = asker.post("/api-tokens", wish).await;
    assert_eq!(problem(&again, 409), "name-taken");
    let reports = Asker::with(&stage, token);
    let me = asker::json(&reports.get("/me").await);
    assert_eq!(
        (&me["name"], &me["kind"], &me["role"], &me["until"]),
        (
            &json!("token reports"),
            &json!("operator"),
            &json!("viewer"),
            &made["expires_at"]
        )
    );
    let listed = asker.get("/api-tokens").await;
    assert!(!listed.body.contains("pbt_"), "a token is told once");
    let names: Vec<_> = asker::json(&listed)["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["operator", "reports"]);
    let revoke = async || {
        asker
            .send(Method::DELETE, "/api-tokens/reports", &[], None)
            .await
    };
    assert_eq!(revoke().await.status, 204);
    assert_eq!(reports.get("/me").await.status, 401);
    assert_eq!(problem(&revoke().await, 404), "no-such-token");
    // Who has a token for a day makes none for a year.
    let operations = stage.cloud().unwrap().operations();
    let my_end = asker::json(&asker.get("/me").await)["until"].clone();
    let wish = r#"{"name":"longer","role":"operator","days":365}"#;
    let made = asker::json(&asker.post("/api-tokens", wish).await);
    let ends = |value: &serde_json::Value| -> presence_bridge::model::Timestamp {
        serde_json::from_value(value.clone()).unwrap()
    };
    assert!(
        ends(&made["expires_at"]) <= ends(&my_end),
        "{made} {my_end}"
    );
    assert!(operations.now() < ends(&made["expires_at"]));
    for bad in [
        r#"{"name":"a b","role":"viewer"}"#,
        r#"{"name":"a","role":"viewer","days":366}"#,
        r#"{"name":"a","role":"admin"}"#,
        r#"{"name":"a"}"#,
    ] {
        assert_eq!(asker.post("/api-tokens", bad).await.status, 400, "{bad}");
    }
    let by = |action: &str| ("token operator".to_owned(), action.to_owned());
    assert_eq!(
        deeds(&stage, None, "operator").await[..2],
        [by("api-token.made"), by("api-token.revoked")]
    );
}

#[tokio::test]
async fn the_command_line_is_believed_once_with_a_key_of_the_file_as_it_stands() {
    let stage = Stage::new(quick()).await;
    let ask = async |token: &str| Asker::with(&stage, token).get("/me").await.status;
    let first = proof(&stage, "root").await;
    let me = Asker::with(&stage, &first).get("/me").await;
    let me = asker::json(&me);
    assert_eq!(
        (&me["name"], &me["kind"], &me["role"]),
        (&json!("root"), &json!("command-line"), &json!("operator"))
    );
    assert_eq!(ask(&first).await, 401, "used twice");
    let (before, file) = (proof(&stage, "root").await, stage.folder().join("key"));
    KeyFile::lock(&file).unwrap().add_key().unwrap();
    assert_eq!(
        ask(&proof(&stage, "root").await).await,
        200,
        "by the new key"
    );
    assert_eq!(ask(&before).await, 200, "by the earlier key");
    let before = proof(&stage, "root").await;
    let other = Stage::new(quick()).await;
    assert_eq!(
        ask(&proof(&other, "root").await).await,
        401,
        "of another machine"
    );
    assert_eq!(ask(&format!("{before}A")).await, 401, "changed");
    let now = stage.cloud().unwrap().operations().now();
    let minutes = |n| std::time::Duration::from_mins(n);
    let old = proof_at(&stage, "root", now.minus(minutes(2))).await;
    assert_ne!(ask(&old).await, 200, "expired");
    let early = proof_at(&stage, "root", now.plus(minutes(2))).await;
    assert_ne!(ask(&early).await, 200, "not yet good");
    assert_eq!(
        ask(&proof(&stage, "root").await).await,
        200,
        "and a right one is"
    );
}

#[tokio::test]
async fn a_proof_is_refused_for_another_request_and_after_a_restart() {
    let mut stage = Stage::new(quick()).await;
    let tenant = stage.tenant("alpha.example", 1).await;
    let path = |what: &str| format!("/tenants/{}/{what}", tenant.id());
    let (pause, link, body) = (path("pause"), path("link"), r#"{"days":2}"#);
    let prove = |stage: &Stage, request, start: &str| {
        let now = stage.cloud().unwrap().operations().now();
        Asker::with(stage, &proof_for(stage, "root", request, start, now))
    };
    let first = asker::start(&stage).await;
    assert_eq!(first.len(), 43, "{first}");
    // What it is not for: another method, another path, another query, another body.
    let proof = prove(&stage, ("POST", &link, body), &first);
    let is_refused = |page: Page| [401, 429].contains(&page.status);
    assert_eq!(problem(&proof.get("/me").await, 401), "not-signed-in");
    assert!(is_refused(proof.post(&pause, "").await));
    assert!(is_refused(proof.post(&link, r#"{"days":9}"#).await));
    let proof_of_body = prove(&stage, ("POST", &link, body), &first);
    let query = format!("{link}?days=9");
    assert!(is_refused(proof_of_body.post(&query, body).await));
    // What it is for: and that was not spent on the way.
    assert_eq!(
        prove(&stage, ("POST", &link, body), &first)
            .post(&link, body)
            .await
            .status,
        200
    );
    assert_eq!(proof.post(&link, body).await.status, 200);
    assert!(is_refused(proof.post(&link, body).await), "once");
    assert_eq!(deeds(&stage, Some(&tenant), "command-line").await.len(), 2);
    // What was used, and what was not, is good for nothing after a restart.
    let used = proof_for(
        &stage,
        "root",
        ("POST", &pause, ""),
        &first,
        stage.cloud().unwrap().operations().now(),
    );
    let now = stage.cloud().unwrap().operations().now();
    let unused = proof_for(&stage, "root", ("POST", &pause, ""), &first, now);
    assert_eq!(
        Asker::with(&stage, &used).post(&pause, "").await.status,
        200
    );
    stage.world.stop_cloud().await;
    stage.world.start_cloud().await.unwrap();
    let second = asker::start(&stage).await;
    assert_ne!(first, second);
    for old in [&used, &unused] {
        assert!(is_refused(Asker::with(&stage, old).post(&pause, "").await));
    }
    let fresh = prove(&stage, ("POST", &pause, ""), &second);
    assert_eq!(fresh.post(&pause, "").await.status, 200);
}

#[tokio::test]
async fn for_who_guesses_the_key_file_is_hardly_read() {
    let stage = Stage::new(quick()).await;
    let (start, now) = (
        asker::start(&stage).await,
        stage.cloud().unwrap().operations().now(),
    );
    let proof = || proof_for(&stage, "root", ("GET", "/me", ""), &start, now);
    let proofs: Vec<String> = std::iter::repeat_with(proof).take(60).collect();
    let for_another = proof_for(&stage, "root", ("GET", "/suites", ""), &start, now);
    // A read of the key file is seen: it fails.
    std::fs::remove_file(stage.folder().join("key")).unwrap();
    for nonsense in ["pbl_", "pbl_e30.e30", &for_another] {
        let answer = Asker::with(&stage, nonsense).get("/me").await;
        assert!(
            [401, 429].contains(&answer.status),
            "{nonsense}: {answer:?}"
        );
    }
    assert_eq!(
        problem(&Asker::with(&stage, &proofs[0]).get("/me").await, 500),
        "internal"
    );
    let mut waits = false;
    while !waits {
        waits = Asker::with(&stage, "pbl_").get("/me").await.status == 429;
    }
    let mut turned_away = 0;
    for proof in &proofs[1..] {
        let status = Asker::with(&stage, proof).get("/me").await.status;
        turned_away += usize::from(status == 429);
        // The wait may be over meanwhile: the guesser goes on.
        Asker::with(&stage, "pbl_").get("/me").await;
    }
    assert!(turned_away > 0, "the file was read for each");
}

#[tokio::test]
async fn whatever_is_asked_wrongly_is_a_problem_that_says_what_to_do() {
    let stage = Stage::new(quick()).await;
    let tenant = stage.tenant("alpha.example", 1).await;
    let asker = Asker::of(&stage, Role::Operator).await;
    let id = tenant.id();
    let nobody = "00000000-0000-4000-8000-000000000000";
    for (path, status, code) in [
        ("/nowhere", 404, "no-such-address"),
        ("", 404, "no-such-address"),
        ("/tenants/alpha", 400, "bad-id"),
        ("/tenants/%FF", 400, "bad-id"),
        (&format!("/tenants/{nobody}"), 404, "no-such-tenant"),
        (&format!("/tenants/{nobody}/suites"), 404, "no-such-tenant"),
        ("/tenants?limit=0", 400, "bad-query"),
        ("/tenants?limit=501", 400, "bad-query"),
        ("/tenants?limit=many", 400, "bad-query"),
        ("/tenants?health=fine", 400, "bad-query"),
        ("/tenants?attention=yes", 400, "bad-query"),
        ("/tenants?cursor=x", 400, "bad-query"),
        ("/tenants?color=red", 400, "bad-query"),
        ("/tenants?limit=1&limit=2", 400, "bad-query"),
        ("/overview?x=1", 400, "bad-query"),
        ("/alerts?open=maybe", 400, "bad-query"),
        ("/audit?before=x", 400, "bad-query"),
        ("/audit?tenant=x", 400, "bad-query"),
        (&format!("/tenants/{id}/pause"), 405, "method-not-allowed"),
    ] {
        let answer = asker.get(path).await;
        assert_eq!(problem(&answer, status), code, "{path}");
    }
    let wrong = asker.send(Method::DELETE, "/overview", &[], None).await;
    assert_eq!(problem(&wrong, 405), "method-not-allowed");
    assert_eq!(wrong.header("allow"), "GET,HEAD");

    let link = format!("/tenants/{id}/link");
    let text = [("content-type", "text/plain")];
    let post = async |headers: &[(&str, &str)], body: &str| {
        asker.send(Method::POST, &link, headers, Some(body)).await
    };
    assert_eq!(problem(&post(&text, "{}").await, 415), "not-json");
    assert_eq!(problem(&post(&[], "{}").await, 415), "not-json");
    let long = format!("{{\"days\":{}1}}", " ".repeat(20_000));
    assert_eq!(
        problem(&asker.post(&link, &long).await, 413),
        "body-too-large"
    );
    for bad in [
        "{",
        "[]",
        "[7]",
        "null",
        "7",
        r#"{"day":1}"#,
        r#"{"days":0}"#,
        r#"{"days":-1}"#,
        r#"{"days":1.5}"#,
        r#"{"days":null}"#,
    ] {
        assert_eq!(
            problem(&asker.post(&link, bad).await, 400),
            "bad-body",
            "{bad}"
        );
    }
    let html = asker.send(Method::GET, "/overview", &[("accept", "text/html")], None);
    assert_eq!(problem(&html.await, 406), "not-acceptable");
    let html = asker.send(
        Method::GET,
        "/openapi.yaml",
        &[("accept", "text/html")],
        None,
    );
    assert_eq!(problem(&html.await, 406), "not-acceptable");
    let revoked = asker.post(&format!("/suites/{nobody}/revoke"), "").await;
    assert_eq!(problem(&revoked, 404), "no-such-suite");
}

#[tokio::test]
async fn every_answer_is_kept_by_nobody_and_has_the_security_headers() {
    let stage = Stage::new(quick()).await;
    let asker = Asker::of(&stage, Role::Operator).await;
    let stranger = Asker::stranger(&stage);
    for answer in [
        asker.get("/overview").await,
        asker.get("/nowhere").await,
        asker.post("/audit/export", "").await,
        stranger.get("/overview").await,
        stranger.get("/openapi.yaml").await,
    ] {
        for (name, value) in [
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
        ] {
            assert_eq!(answer.header(name), value);
        }
        assert!(
            answer
                .header("content-security-policy")
                .starts_with("default-src 'none'")
        );
        assert!(!answer.header("x-request-id").is_empty());
        assert!(answer.header("set-cookie").is_empty());
    }
}

#[tokio::test]
async fn tenants_come_all_at_once_or_page_by_page_filtered_or_not() {
    let stage = Stage::new(quick()).await;
    let names = ["alpha", "beta", "delta", "epsilon", "gamma"].map(|n| format!("{n}.example"));
    for name in &names {
        stage.tenant(name, 1).await;
    }
    let asker = Asker::of(&stage, Role::Viewer).await;
    let page = async |query: &str| {
        let page = asker::json(&asker.get(&format!("/tenants{query}")).await);
        let tenants = page["tenants"].as_array().unwrap();
        let names: Vec<_> = tenants
            .iter()
            .map(|t| t["name"].as_str().unwrap().to_owned())
            .collect();
        let next = page["next"].as_str().map(str::to_owned);
        (names, page["found"].as_u64().unwrap(), next)
    };
    assert_eq!(page("").await, (names.to_vec(), 5, None));
    let mut seen = Vec::new();
    let mut query = "?limit=2".to_owned();
    loop {
        let (some, found, next) = page(&query).await;
        assert!(some.len() <= 2 && found == 5);
        seen.extend(some);
        match next {
            Some(cursor) => query = format!("?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(seen, names);
    assert_eq!(page("?search=ETA").await.0, names[1..2]);
    assert!(page("?health=gone").await.0.is_empty());
    assert_eq!(page("?health=needs%20administrator").await.1, 0);
}

#[tokio::test]
async fn the_audit_log_is_read_page_by_page_and_exported_with_its_own_entry() {
    let stage = Stage::new(quick()).await;
    let tenant = stage.tenant("alpha.example", 1).await;
    let asker = Asker::of(&stage, Role::Operator).await;
    for act in ["pause", "resume"] {
        asker
            .post(&format!("/tenants/{}/{act}", tenant.id()), "")
            .await;
    }
    let mut actions = Vec::new();
    let mut query = format!("?limit=1&tenant={}", tenant.id());
    loop {
        let page = asker::json(&asker.get(&format!("/audit{query}")).await);
        for entry in page["entries"].as_array().unwrap() {
            actions.push(entry["action"].as_str().unwrap().to_owned());
        }
        match page["next"].as_i64() {
            Some(before) => query = format!("?limit=1&tenant={}&before={before}", tenant.id()),
            None => break,
        }
    }
    assert_eq!(
        actions[..2],
        ["tenant.resumed".to_owned(), "tenant.paused".to_owned()]
    );
    let export = asker.post("/audit/export", "").await;
    assert_eq!(export.header("content-type"), "application/x-ndjson");
    let lines: Vec<serde_json::Value> = export
        .body
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines[0]["action"], "audit.exported");
    assert_eq!(lines[0]["actor"], "token operator");
    assert!(lines.iter().any(|line| line["action"] == "tenant.paused"));
}
