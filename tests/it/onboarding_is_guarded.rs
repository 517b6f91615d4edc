//! Forged, replayed and misplaced requests to the pages: all refused, nothing connected, nobody seen.

use presence_bridge::cloud::store::ConnectionKind;
use presence_bridge::simulator::{Fault, FaultParams, Scope, Tenant, TenantSpec};
use presence_bridge::world::WorldSettings;
use reqwest::Method;
use url::Url;
use uuid::Uuid;

use crate::support::stage::{Stage, quick, upns};
use crate::support::visitor::{Page, Visitor};

async fn stage() -> (Stage, Tenant) {
    let mut settings = quick();
    settings
        .cloud_keys
        .push(("web", "sign_ins_per_minute = 5000".into()));
    settings
        .cloud_keys
        .push(("web", "consent_propagation = \"0s\"".into()));
    with_contoso(settings).await
}

async fn with_contoso(settings: WorldSettings) -> (Stage, Tenant) {
    let stage = Stage::new(settings).await;
    let tenant = found(&stage, "contoso.example");
    (stage, tenant)
}

fn found(stage: &Stage, domain: &str) -> Tenant {
    stage.microsoft.add_tenant(TenantSpec {
        domain: domain.into(),
        name: domain.into(),
        people: 4,
        ..TenantSpec::default()
    })
}

async fn connected(stage: &Stage) -> usize {
    let store = stage.store().await.unwrap();
    let tenants = store.tenants().await.unwrap().len();
    store.close().await;
    tenants
}

fn is_refused(page: &Page) -> bool {
    page.status == 400 && page.outcome() == "expired"
}

#[tokio::test]
async fn a_callback_is_good_once_in_the_browser_that_was_sent_away() {
    let (stage, tenant) = stage().await;
    let account = &upns(&tenant)[0];
    let visitor = Visitor::new(&stage);
    visitor.begin("contoso.example", "service-account").await;

    // No state, nonsense, one that was never given out.
    for query in [
        "code=abc".to_owned(),
        "state=&code=abc".to_owned(),
        "state=short&code=abc".to_owned(),
        format!("state={}&code=abc", "x".repeat(43)),
        format!("state={}'--&code=abc", "x".repeat(40)),
        "admin_consent=True&tenant=11111111-2222-3333-4444-555555555555".to_owned(),
        "error=access_denied".to_owned(),
    ] {
        let page = visitor.get(&format!("/callback?{query}")).await;
        assert!(is_refused(&page), "{query}: {}", page.body);
    }

    // In another browser; and then it is used up in the right one, too.
    let away = visitor.authorize().await;
    let back = visitor.at_microsoft(&away, account, "accept").await;
    let other = Visitor::new(&stage);
    other.begin("contoso.example", "service-account").await;
    other.authorize().await;
    assert!(is_refused(&other.get(&back).await), "foreign");
    assert!(is_refused(&visitor.get(&back).await), "burnt");

    // Without the cookie of the sign-in, or with that of an earlier one.
    for keep in [false, true] {
        let away = visitor.authorize().await;
        let held = visitor.cookies();
        let back = visitor.at_microsoft(&away, account, "accept").await;
        if keep {
            visitor.authorize().await;
        } else {
            let mut without = held.clone();
            without.remove("oauth");
            visitor.set_cookies(without);
        }
        assert!(is_refused(&visitor.get(&back).await));
    }

    // Too late.
    let away = visitor.authorize().await;
    let back = visitor.at_microsoft(&away, account, "accept").await;
    let database = stage.folder().join("cloud.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(database);
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    sqlx::query("UPDATE sign_ins SET expires_at = 1")
        .execute(&pool)
        .await
        .unwrap();
    pool.close().await;
    assert!(is_refused(&visitor.get(&back).await), "expired");
    assert_eq!(
        visitor
            .get("/authorize")
            .await
            .body
            .matches("AUTHORIZED")
            .count(),
        0
    );

    // The right one works once.
    let away = visitor.authorize().await;
    let back = visitor.at_microsoft(&away, account, "accept").await;
    let before = visitor.cookies();
    assert_eq!(visitor.get(&back).await.location(), "/authorize");
    assert_ne!(
        visitor.cookies()["sid"],
        before["sid"],
        "a new session after the sign-in"
    );
    assert!(is_refused(&visitor.get(&back).await), "replayed");
    let now = visitor.cookies();
    visitor.set_cookies(before);
    assert!(
        is_refused(&visitor.get("/authorize").await),
        "the session before is gone"
    );
    visitor.set_cookies(now);
    assert_eq!(
        connected(&stage).await,
        0,
        "nothing is connected before it is completed"
    );
    visitor.get("/authorize").await;
    assert_eq!(visitor.post("/complete", &[]).await.status, 200);
    assert_eq!(connected(&stage).await, 1);
}

#[tokio::test]
async fn a_tenant_is_bound_by_a_verified_sign_in_and_by_nothing_else() {
    let (stage, tenant) = stage().await;
    let fabrikam = found(&stage, "fabrikam.example");
    let (ann, eve) = (upns(&tenant)[0].clone(), upns(&fabrikam)[0].clone());

    // Fabrikam has consented long ago. Somebody of Contoso says he is of Fabrikam, in every way he can.
    fabrikam.grant_consent(
        stage.client_id(),
        &["Presence.Read.All", "User.ReadBasic.All"],
        &[],
    );
    let visitor = Visitor::new(&stage);
    visitor.begin("fabrikam.example", "organisation").await;
    let away = visitor.authorize().await;
    let sent = Url::parse(&away).unwrap();
    let given = sent
        .query_pairs()
        .find(|(n, _)| n == "state")
        .unwrap()
        .1
        .into_owned();
    let said = format!(
        "/callback?admin_consent=True&tenant={}&state={given}",
        fabrikam.id()
    );
    let to_sign_in = visitor.get(&said).await.location();
    assert!(
        to_sign_in.contains("/organizations/oauth2/v2.0/authorize"),
        "consent alone binds nothing"
    );
    let back = visitor.at_microsoft(&to_sign_in, &ann, "accept").await;
    assert_eq!(visitor.get(&back).await.location(), "/outcome");
    assert_eq!(
        visitor.get("/outcome").await.outcome(),
        "wrong-organisation"
    );

    // The consent comes back for somebody else.
    visitor.begin("contoso.example", "organisation").await;
    let forged = Fault::parse("forged-tenant", &FaultParams::default()).unwrap();
    stage.microsoft.set_fault(forged, Scope::All, None);
    assert_eq!(visitor.through_microsoft(&ann).await.location(), "/outcome");
    assert_eq!(
        visitor.get("/outcome").await.outcome(),
        "wrong-organisation"
    );
    stage.microsoft.clear_faults(None, None);

    // A code of another account's sign-in, put into one's own callback: the nonce is not ours.
    let other = Visitor::new(&stage);
    other.begin("fabrikam.example", "service-account").await;
    let away = other.authorize().await;
    let theirs = other.at_microsoft(&away, &eve, "accept").await;
    let code = Url::parse(&theirs).unwrap();
    let code = code
        .query_pairs()
        .find(|(n, _)| n == "code")
        .unwrap()
        .1
        .into_owned();
    visitor.begin("fabrikam.example", "service-account").await;
    let away = Url::parse(&visitor.authorize().await).unwrap();
    let given = away
        .query_pairs()
        .find(|(n, _)| n == "state")
        .unwrap()
        .1
        .into_owned();
    let swapped = format!("/callback?state={given}&code={code}");
    assert_eq!(visitor.get(&swapped).await.location(), "/outcome");
    let told = visitor.get("/outcome").await;
    assert!(
        ["ours", "not-proven"].contains(&told.outcome()),
        "{}",
        told.body
    );
    assert_eq!(connected(&stage).await, 0);
}

#[tokio::test]
async fn a_forged_id_token_proves_nothing_in_both_connections() {
    let (stage, tenant) = stage().await;
    let ann = upns(&tenant)[0].clone();
    for connection in ["service-account", "organisation"] {
        for (flaw, expected) in [
            ("tid", "not-proven"),
            ("iss", "not-proven"),
            ("aud", "not-proven"),
            ("nonce", "not-proven"),
            ("exp", "not-proven"),
            ("alg", "not-proven"),
            ("kid", "not-proven"),
            ("signature", "not-proven"),
            ("personal", "personal"),
        ] {
            let visitor = Visitor::new(&stage);
            visitor.begin("contoso.example", connection).await;
            let params = FaultParams {
                flaw: Some(flaw.into()),
                ..FaultParams::default()
            };
            let fault = Fault::parse("bad-id-token", &params).unwrap();
            stage.microsoft.set_fault(fault, Scope::All, None);
            let page = visitor.through_microsoft(&ann).await;
            stage.microsoft.clear_faults(None, None);
            assert_eq!(page.location(), "/outcome", "{connection} {flaw}");
            assert_eq!(
                visitor.get("/outcome").await.outcome(),
                expected,
                "{connection} {flaw}"
            );
            assert_eq!(visitor.post("/complete", &[]).await.location(), "/complete");
        }
    }
    assert_eq!(connected(&stage).await, 0);
}

#[tokio::test]
async fn what_comes_back_is_never_shown_as_it_is() {
    let (stage, _) = stage().await;
    let visitor = Visitor::new(&stage);
    visitor.begin("contoso.example", "service-account").await;
    for text in [
        "AADSTS65004: <script>alert(1)</script>",
        "\"><img src=x onerror=alert(1)>",
        "AADSTS53003: {{7*7}} {% include %} <svg/onload=alert(1)>",
    ] {
        let away = Url::parse(&visitor.authorize().await).unwrap();
        let given = away
            .query_pairs()
            .find(|(n, _)| n == "state")
            .unwrap()
            .1
            .into_owned();
        let query = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("state", &given)
            .append_pair("error", "<script>alert(2)</script>")
            .append_pair("error_description", text)
            .append_pair("error_uri", "https://evil.example/")
            .finish();
        let page = visitor.open(&format!("/callback?{query}")).await;
        assert_eq!(page.status, 200);
        for never in ["alert", "<svg", "onerror", "evil.example", "49"] {
            let main = page.body.split_once("<main").unwrap().1;
            assert!(
                !main.contains(never) || never == "49" && !main.contains(" 49 "),
                "{never} in {main}"
            );
        }
    }
    // Entries come back escaped.
    visitor.get("/").await;
    let page = visitor
        .post(
            "/",
            &[
                ("first_name", "\"><script>alert(3)</script>"),
                ("tenant", "<b>.example"),
            ],
        )
        .await;
    assert!(
        page.body.contains("alert(3)") && !page.body.contains("<script>alert"),
        "{}",
        page.body
    );
}

#[tokio::test]
async fn no_address_leads_anywhere_else() {
    let (stage, _) = stage().await;
    let visitor = Visitor::new(&stage);
    visitor.begin("contoso.example", "service-account").await;
    let login = stage.microsoft_url().origin().ascii_serialization();
    let own = visitor.origin();
    let names = [
        "next",
        "return",
        "returnUrl",
        "return_to",
        "redirect",
        "redirect_uri",
        "redirect_url",
        "url",
        "continue",
        "goto",
        "dest",
        "target",
        "ReturnUrl",
        "callback",
        "state",
    ];
    let places = [
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "javascript:alert(1)",
        "https:evil.example",
        "%2f%2fevil.example",
        "https://login.microsoftonline.com.evil.example",
    ];
    let mut tried = 0;
    let safe = |page: &Page, what: &str| {
        let to = page.location();
        let inside = to.is_empty()
            || (to.starts_with('/') && !to.starts_with("//") && !to.starts_with("/\\"))
            || to.starts_with(&format!("{login}/"));
        assert!(inside && !to.contains("evil"), "{what} leads to {to}");
        assert!(
            !page.body.contains("href=\"https://evil") && !page.body.contains("evil.example"),
            "{what}"
        );
    };
    for name in names {
        for place in places {
            let query = url::form_urlencoded::Serializer::new(String::new())
                .append_pair(name, place)
                .finish();
            for path in ["/", "/status", "/callback"] {
                let path = format!("{path}?{query}");
                safe(&visitor.get(&path).await, &path);
                tried += 1;
            }
        }
    }
    for path in [
        "//evil.example",
        "//evil.example/..",
        "/%2f%2fevil.example",
        "/\\evil.example",
        "/%5cevil.example",
        "/.//evil.example",
        "/status//evil.example",
        "/s//evil.example",
        "/for/https:%2f%2fevil.example",
        "/s/..%2f..%2fstatus",
        "/assets/..%2f..%2fCargo.toml",
        "/assets/%2e%2e%2fstyle.css",
    ] {
        let page = visitor.get(path).await;
        safe(&page, path);
        assert!(page.status >= 400, "{path}: {}", page.status);
        tried += 1;
    }
    // A foreign host name changes no address.
    let page = visitor
        .send(
            Method::GET,
            "/status/again",
            &[("host", "evil.example")],
            None,
        )
        .await;
    safe(&page, "host");
    assert!(tried > 200, "{tried}");
    assert_eq!(
        visitor.get("/authorize").await.body.matches(&own).count(),
        1,
        "only the link to forward names our address"
    );
}

#[tokio::test]
async fn a_form_from_elsewhere_does_nothing() {
    let (stage, tenant) = stage().await;
    let visitor = Visitor::new(&stage);
    visitor.onboard(&tenant, "organisation").await;
    visitor.get("/status").await;
    let (origin, csrf) = (visitor.origin(), visitor.csrf());
    let kind = ("content-type", "application/x-www-form-urlencoded");
    let good = format!("csrf={csrf}&typed=contoso.example").into_bytes();
    for path in [
        "/status/disconnect",
        "/status/suites",
        "/status/link",
        "/status/again",
        "/sign-out",
        "/sign-in",
    ] {
        for (what, headers, body) in [
            ("no origin", vec![kind], good.clone()),
            ("origin null", vec![kind, ("origin", "null")], good.clone()),
            (
                "another origin",
                vec![kind, ("origin", "https://evil.example")],
                good.clone(),
            ),
            (
                "a longer origin",
                vec![kind, ("origin", "http://127.0.0.1.evil.example")],
                good.clone(),
            ),
            (
                "no proof",
                vec![kind, ("origin", &origin)],
                b"typed=contoso.example".to_vec(),
            ),
            (
                "a wrong proof",
                vec![kind, ("origin", &origin)],
                format!("csrf={}&typed=contoso.example", "x".repeat(43)).into_bytes(),
            ),
            (
                "too much",
                vec![kind, ("origin", &origin)],
                vec![b'x'; 80 << 10],
            ),
        ] {
            let page = visitor.send(Method::POST, path, &headers, Some(body)).await;
            assert!(
                [400, 403].contains(&page.status),
                "{path} {what}: {}",
                page.status
            );
        }
    }
    // A proof of another browser's.
    let other = Visitor::new(&stage);
    other.get("/").await;
    let body = format!("csrf={}&typed=contoso.example", other.csrf()).into_bytes();
    let page = visitor
        .send(
            Method::POST,
            "/status/disconnect",
            &[kind, ("origin", &origin)],
            Some(body),
        )
        .await;
    assert_eq!(page.status, 400);
    assert!(
        visitor
            .get("/status")
            .await
            .body
            .contains("Connection of Contoso Ltd"),
        "still there, still signed in"
    );
}

#[tokio::test]
async fn every_answer_has_the_headers() {
    let (stage, _) = stage().await;
    let visitor = Visitor::new(&stage);
    for (path, status) in [
        ("/", 200),
        ("/status", 200),
        ("/connection", 400),
        ("/callback", 400),
        ("/no-such-page", 404),
        ("/assets/style.css", 200),
        ("/assets/no-such-file", 404),
        ("/status/again", 303),
        ("/s/x", 410),
    ] {
        let page = visitor.get(path).await;
        assert_eq!(page.status, status, "{path}");
        let csp = page.header("content-security-policy");
        for part in [
            "default-src 'none'",
            "script-src 'self'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
            "form-action 'self' http://127.0.0.1:",
        ] {
            assert!(csp.contains(part), "{path}: {csp}");
        }
        assert!(!csp.contains("unsafe"));
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "same-origin"),
            ("cross-origin-opener-policy", "same-origin"),
        ] {
            assert_eq!(page.header(name), value, "{path}");
        }
        if !path.starts_with("/assets/s") {
            assert_eq!(page.header("cache-control"), "no-store", "{path}");
        }
        for inline in ["<style", " style=", "onclick=", "javascript:"] {
            assert!(
                !page.body.contains(inline) || path.starts_with("/assets"),
                "{path}: {inline}"
            );
        }
    }
    let wrong = visitor.send(Method::DELETE, "/", &[], None).await;
    assert_eq!(
        (wrong.status, wrong.header("x-frame-options").as_str()),
        (404, "DENY")
    );
}

#[tokio::test]
async fn only_who_authorized_completes() {
    let (stage, tenant) = stage().await;
    let ann = tenant.administrators()[0].upn.clone();
    let asker = Visitor::new(&stage);
    asker.begin("contoso.example", "organisation").await;

    // Before anything is authorized.
    assert_eq!(asker.post("/complete", &[]).await.location(), "/complete");
    assert_eq!(asker.get("/complete").await.location(), "/authorize");

    // The administrator comes by the forwarded link, and is told who asks.
    let page = asker.get("/authorize").await.body;
    let link = page.split_once("/for/").unwrap().1;
    let link = format!("/for/{}", &link[..43]);
    let admin = Visitor::new(&stage);
    let page = admin.open(&link).await;
    assert!(
        page.body
            .contains("Ann Lee (ann.lee@contoso.example), Contoso Ltd"),
        "{}",
        page.body
    );
    assert!(
        !page.body.contains("/for/"),
        "there is nothing to forward any further"
    );
    assert_eq!(admin.through_microsoft(&ann).await.location(), "/authorize");

    // Who asked sees that it is authorized, and cannot complete it.
    let page = asker.get("/authorize").await;
    assert!(
        page.body.contains("authorized in another browser"),
        "{}",
        page.body
    );
    assert!(page.body.contains("disabled"));
    assert_eq!(asker.post("/complete", &[]).await.location(), "/complete");
    assert_eq!(connected(&stage).await, 0);

    admin.get("/authorize").await;
    assert_eq!(admin.post("/complete", &[]).await.status, 200);
    assert_eq!(connected(&stage).await, 1);
    assert_eq!(admin.get(&link).await.outcome(), "used");
    assert!(
        !asker.open("/status").await.body.contains("Connection of"),
        "who asked sees no tenant"
    );
    let page = asker.open("/complete").await;
    assert!(page.body.contains("This request is complete") && !page.body.contains("id=\"code\""));
}

#[tokio::test]
async fn where_roles_are_not_told_nobody_connects_an_organisation() {
    let (stage, tenant) = stage().await;
    stage.microsoft.set_switches(|s| s.wids = false);
    let visitor = Visitor::new(&stage);
    visitor.begin("contoso.example", "organisation").await;
    let administrator = &tenant.administrators()[0].upn;
    visitor.through_microsoft(administrator).await;
    assert_eq!(visitor.get("/outcome").await.outcome(), "ours");
    assert_eq!(visitor.get("/complete").await.location(), "/authorize");
    // With a service account no role is needed.
    visitor.onboard(&tenant, "service-account").await;
}

#[tokio::test]
async fn nobody_sees_or_takes_over_somebody_else_s_tenant() {
    let (stage, tenant) = stage().await;
    let fabrikam = found(&stage, "fabrikam.example");
    let (contoso, eve) = (Visitor::new(&stage), Visitor::new(&stage));
    let done = contoso.onboard(&tenant, "organisation").await;
    let link = done.body.split_once("/s/").unwrap().1[..43].to_owned();
    eve.onboard(&fabrikam, "service-account").await;

    let see = async |visitor: &Visitor, account: &str| {
        visitor.get("/status").await;
        let away = visitor.post("/sign-in", &[]).await.location();
        let back = visitor.at_microsoft(&away, account, "accept").await;
        visitor.open(&back).await
    };
    let stranger = Visitor::new(&stage);
    let ann = tenant.administrators()[0].upn.clone();
    let bob = upns(&tenant)[1].clone();
    assert!(tenant.set_administrator(&bob, true));
    assert!(
        see(&stranger, &ann)
            .await
            .body
            .contains("Connection of Contoso Ltd")
    );
    for account in [bob.clone(), upns(&fabrikam)[1].clone()] {
        let stranger = Visitor::new(&stage);
        assert_eq!(see(&stranger, &account).await.outcome(), "not-yours");
    }
    // An organisation that is not connected gets the very same answer.
    let nobody = found(&stage, "northwind.example");
    let stranger = Visitor::new(&stage);
    assert_eq!(
        see(&stranger, &upns(&nobody)[0]).await.outcome(),
        "not-yours"
    );

    // Somebody else of Contoso connects it again from the first page: no.
    for connection in ["service-account", "organisation"] {
        let bobs = Visitor::new(&stage);
        bobs.begin("contoso.example", connection).await;
        assert_eq!(bobs.through_microsoft(&bob).await.location(), "/outcome");
        assert_eq!(bobs.get("/outcome").await.outcome(), "connected");
        assert!(!bobs.open("/status").await.body.contains("Connection of"));
    }
    // The very account is led to its status page.
    let again = Visitor::new(&stage);
    again.begin("contoso.example", "organisation").await;
    again.through_microsoft(&ann).await;
    assert_eq!(again.get("/outcome").await.outcome(), "connected");
    assert!(
        again
            .open("/status")
            .await
            .body
            .contains("Connection of Contoso Ltd")
    );

    // One connected by the operator belongs to nobody yet: the operator gives a link.
    let by_operator = stage
        .tenant_by("adventure.example", 3, ConnectionKind::Organisation)
        .await;
    let taker = Visitor::new(&stage);
    taker.begin("adventure.example", "organisation").await;
    let administrator = &by_operator.administrators()[0].upn;
    taker.through_microsoft(administrator).await;
    assert_eq!(taker.get("/outcome").await.outcome(), "connected");

    // By the link: everything but the end.
    let guest = Visitor::new(&stage);
    let page = guest.open(&format!("/s/{link}")).await;
    assert!(page.body.contains("Connection of Contoso Ltd") && page.body.contains("secret link"));
    assert_eq!(
        guest
            .post("/status/suites", &[])
            .await
            .body
            .matches("id=\"code\"")
            .count(),
        1
    );
    guest.get("/status/disconnect").await;
    guest
        .post("/status/disconnect", &[("typed", "contoso.example")])
        .await;
    assert!(
        guest
            .open("/status")
            .await
            .body
            .contains("Connection of Contoso Ltd"),
        "a link is not enough to disconnect"
    );
    // There is an end to codes that nobody uses.
    let mut codes = 1;
    while guest.post("/status/suites", &[]).await.status == 200 {
        codes += 1;
        assert!(codes <= 100);
    }
    assert_eq!(codes, 99, "and one from the beginning");
    guest.open("/status").await;
    // A new link ends the old one and who came by it; a changed letter opens nothing.
    let second = Visitor::new(&stage);
    assert!(
        second
            .open(&format!("/s/{link}"))
            .await
            .body
            .contains("Connection of")
    );
    guest.post("/status/link", &[]).await;
    assert!(!second.open("/status").await.body.contains("Connection of"));
    for still in [&guest, &contoso] {
        assert!(still.open("/status").await.body.contains("Connection of"));
    }
    for wrong in [
        link.clone(),
        format!("{}x", &link[..42]),
        Uuid::new_v4().to_string(),
    ] {
        assert_eq!(
            Visitor::new(&stage)
                .get(&format!("/s/{wrong}"))
                .await
                .outcome(),
            "used"
        );
    }

    // Disconnecting ends every session and link, and the tenant.
    contoso.get("/status/disconnect").await;
    let page = contoso
        .post("/status/disconnect", &[("typed", "contoso")])
        .await;
    assert!(page.body.contains("nothing was done"));
    let page = contoso
        .post("/status/disconnect", &[("typed", "contoso.example")])
        .await;
    assert!(
        page.body.contains("Disconnected") && page.body.contains(&tenant.id().to_string()),
        "{}",
        page.body
    );
    for visitor in [&contoso, &guest, &again] {
        assert!(!visitor.open("/status").await.body.contains("Connection of"));
    }
    assert!(
        eve.open("/status")
            .await
            .body
            .contains("Connection of Contoso Ltd"),
        "that is what Eve called Fabrikam"
    );
    assert!(
        eve.open("/status")
            .await
            .body
            .contains(&fabrikam.id().to_string())
    );
}

#[tokio::test]
async fn re_authorization_is_for_exactly_that_tenant() {
    let (stage, tenant) = stage().await;
    let fabrikam = found(&stage, "fabrikam.example");
    let visitor = Visitor::new(&stage);
    visitor.onboard(&tenant, "service-account").await;
    visitor.get("/status").await;
    assert_eq!(
        visitor.post("/status/again", &[]).await.location(),
        "/authorize"
    );

    visitor.through_microsoft(&upns(&fabrikam)[0]).await;
    assert_eq!(
        visitor.get("/outcome").await.outcome(),
        "wrong-organisation"
    );

    // Going on with the rights of a session makes none that lives longer.
    let database = stage.folder().join("cloud.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(database);
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    let seven_hours = 7 * 3_600_000;
    sqlx::query("UPDATE web_sessions SET created_at = created_at - $1")
        .bind(seven_hours)
        .execute(&pool)
        .await
        .unwrap();
    visitor.get("/status").await;
    visitor.post("/status/again", &[]).await;

    // Another account of the same organisation may: whoever sent it here could see the status page.
    let bob = upns(&tenant)[1].clone();
    assert_eq!(
        visitor.through_microsoft(&bob).await.location(),
        "/authorize"
    );
    let young: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM web_sessions WHERE tenant_id IS NOT NULL AND created_at > used_at - $1",
    )
    .bind(seven_hours)
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(young, 0);
    pool.close().await;
    // Ann, who authorized before, looks at it elsewhere; then it is Bob's.
    let ann = Visitor::new(&stage);
    ann.get("/status").await;
    let away = ann.post("/sign-in", &[]).await.location();
    let back = ann.at_microsoft(&away, &upns(&tenant)[0], "accept").await;
    assert!(ann.open(&back).await.body.contains("Connection of"));
    visitor.get("/authorize").await;
    let done = visitor.post("/complete", &[]).await;
    assert!(!ann.open("/status").await.body.contains("Connection of"));
    assert!(
        done.body.contains("Authorized anew") && !done.body.contains("id=\"code\""),
        "{}",
        done.body
    );
    let status = visitor.open("/status").await.body;
    assert!(status.contains(&bob), "{status}");
    assert_eq!(connected(&stage).await, 1);
}

#[tokio::test]
async fn an_address_begins_only_so_many_sign_ins() {
    let (stage, _) = with_contoso(quick()).await;
    let visitor = Visitor::new(&stage);
    visitor.get("/").await;
    let mut refused = None;
    for attempt in 1..=15 {
        let page = visitor.post("/", &[]).await;
        if page.status == 429 {
            refused = Some((attempt, page));
            break;
        }
    }
    let (attempt, page) = refused.expect("there is an end");
    assert_eq!(attempt, 11, "ten at once, then one every three seconds");
    assert_eq!(
        (page.header("retry-after").as_str(), page.outcome()),
        ("60", "too-many")
    );
    assert_eq!(visitor.get("/").await.status, 200, "looking is free");
}

#[tokio::test]
async fn of_two_who_authorize_at_the_same_time_the_first_to_complete_has_it() {
    let (stage, tenant) = stage().await;
    let (ann, bob) = (Visitor::new(&stage), Visitor::new(&stage));
    for (visitor, account) in [(&ann, 0), (&bob, 1)] {
        assert!(tenant.set_administrator(&upns(&tenant)[account], true));
        visitor.begin("contoso.example", "organisation").await;
        visitor.through_microsoft(&upns(&tenant)[account]).await;
        assert!(visitor.get("/authorize").await.body.contains("AUTHORIZED"));
    }
    // Twice at once by the same person: one code.
    let (first, second) = tokio::join!(ann.post("/complete", &[]), ann.post("/complete", &[]));
    let codes = [&first, &second]
        .iter()
        .filter(|p| p.body.contains("id=\"code\""))
        .count();
    assert_eq!(codes, 1);
    let late = bob.post("/complete", &[]).await;
    assert_eq!(late.location(), "/outcome");
    assert_eq!(bob.get("/outcome").await.outcome(), "connected");
    assert!(!bob.open("/status").await.body.contains("Connection of"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_s_link_mends_a_connection_of_the_command_line() {
    let (stage, _) = stage().await;
    let tenant = stage
        .tenant_by("adventure.example", 3, ConnectionKind::Organisation)
        .await;
    let cloud = |arguments: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_presence-cloud"))
            .arg("--config")
            .arg(stage.folder().join("cloud.toml"))
            .args(arguments)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let said = cloud(&["tenant", "link", "adventure", "--days", "2"]);
    let link = said
        .split_whitespace()
        .find(|word| word.starts_with("http"))
        .unwrap();
    let visitor = Visitor::new(&stage);
    assert!(
        visitor
            .open(link)
            .await
            .body
            .contains("Connection of adventure.example")
    );
    assert_eq!(
        visitor.post("/status/again", &[]).await.location(),
        "/authorize"
    );
    let account = tenant.administrators()[0].upn.clone();
    assert_eq!(
        visitor.through_microsoft(&account).await.location(),
        "/authorize"
    );
    visitor.get("/authorize").await;
    assert!(
        visitor
            .post("/complete", &[])
            .await
            .body
            .contains("Authorized anew")
    );
    assert!(visitor.open("/status").await.body.contains(&account));

    // Connected anew on the command line, it still belongs to the account; the name is gone with the key.
    cloud(&["tenant", "add", "adventure.example"]);
    let page = visitor.open("/status").await;
    assert_eq!(page.status, 200, "{}", page.body);
    cloud(&["tenant", "remove", "adventure", "--yes"]);
    assert_eq!(Visitor::new(&stage).get(link).await.outcome(), "used");
}

#[tokio::test]
async fn what_was_begun_runs_to_its_end_though_nobody_waits_for_it() {
    let (stage, tenant) = stage().await;
    let visitor = Visitor::new(&stage);
    visitor.begin("contoso.example", "service-account").await;
    let away = visitor.authorize().await;
    let back = visitor
        .at_microsoft(&away, &upns(&tenant)[0], "accept")
        .await;
    let slow = Fault::Slow { delay_ms: 300 };
    stage.microsoft.set_fault(slow, Scope::All, None);
    // The browser is closed while Microsoft is asked.
    let gone = tokio::time::timeout(std::time::Duration::from_millis(150), visitor.get(&back));
    assert!(gone.await.is_err());
    let database = stage.folder().join("cloud.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(database);
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    for left in (0..100).rev() {
        let step: String = sqlx::query_scalar("SELECT step FROM onboardings")
            .fetch_one(&pool)
            .await
            .unwrap();
        if step == "authorized" {
            break;
        }
        assert!(left > 0, "it is {step}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    pool.close().await;
}
