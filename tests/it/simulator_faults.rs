//! Every fault does what its line says.

use std::time::Duration;

use axum::body::HttpBody as _;
use http_body_util::BodyExt as _;
use presence_bridge::simulator::{Fault, FaultParams, IdTokenFlaw, Scope};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::simulator_support::{APP_GRANT, CLIENT, Reply, Sim, ids, shown};

async fn with_fault(fault: Fault) -> (Sim, Reply) {
    let sim = Sim::new();
    let token = sim.app_token(&sim.contoso).await;
    sim.microsoft
        .set_fault(fault, Scope::Tenant(sim.contoso.id()), Some(1));
    let wanted = ids(&sim.contoso, 3);
    let spoiled = sim.presences(&token, &wanted).await;
    let after = sim.presences(&token, &wanted).await;
    assert_eq!(after.status, 200, "the fault was for one request");
    assert_eq!(after.json()["value"].as_array().unwrap().len(), 3);
    (sim, spoiled)
}

#[tokio::test]
async fn faults_of_status() {
    for (fault, status, retry_after) in [
        (Fault::Throttle { retry_after: 42 }, 429, "42"),
        (Fault::ThrottleNoRetryAfter, 429, ""),
        (
            Fault::Unavailable {
                retry_after: Some(9),
            },
            503,
            "9",
        ),
        (Fault::Unavailable { retry_after: None }, 503, ""),
        (Fault::ServerError, 500, ""),
        (Fault::GatewayHtml, 502, ""),
        (Fault::TokenExpired, 401, ""),
        (Fault::ClaimsChallenge, 401, ""),
        (Fault::Flapping401, 401, ""),
        (Fault::ConsentWithdrawn, 403, ""),
        (Fault::Forbidden, 403, ""),
        (
            Fault::Redirect {
                to: "http://other.example/".into(),
                status: 302,
            },
            302,
            "",
        ),
    ] {
        let (_, reply) = with_fault(fault.clone()).await;
        assert_eq!(reply.status, status, "{fault:?}");
        assert_eq!(reply.header("retry-after"), retry_after, "{fault:?}");
    }
    let (_, reply) = with_fault(Fault::GatewayHtml).await;
    assert!(reply.text.starts_with("<html>"));
    let (_, reply) = with_fault(Fault::ClaimsChallenge).await;
    assert!(
        reply
            .header("www-authenticate")
            .contains("insufficient_claims")
    );
}

#[tokio::test]
async fn faults_of_content() {
    let no_json = |reply: &Reply| serde_json::from_str::<Value>(&reply.text).is_err();
    for fault in [Fault::GarbageJson, Fault::TruncatedJson, Fault::EmptyBody] {
        let (_, reply) = with_fault(fault.clone()).await;
        assert_eq!(reply.status, 200);
        assert!(no_json(&reply), "{fault:?}");
    }
    let (_, reply) = with_fault(Fault::WrongContentType).await;
    assert_eq!(reply.header("content-type"), "text/html");
    let (_, reply) = with_fault(Fault::UnknownAvailability).await;
    assert_eq!(reply.json()["value"][0]["availability"], "Teleporting");
    let (_, reply) = with_fault(Fault::CamelCase).await;
    assert_eq!(reply.json()["value"][0]["availability"], "available");
    let (_, reply) = with_fault(Fault::NullFields).await;
    let body = reply.json();
    assert!(body["value"][0]["id"].is_string() && body["value"][0]["availability"].is_null());
    let (_, reply) = with_fault(Fault::ExtraFields).await;
    assert_eq!(reply.json()["value"][0]["mood"], "sunny");
}

#[tokio::test]
async fn one_person_can_spoil_a_request_or_be_left_out() {
    let sim = Sim::new();
    let token = sim.app_token(&sim.contoso).await;
    let all = ids(&sim.contoso, 3);
    let id: Uuid = all[1].parse().unwrap();
    sim.microsoft
        .set_fault(Fault::PoisonUser { id, status: 500 }, Scope::All, None);
    assert_eq!(sim.presences(&token, &all).await.status, 500);
    assert_eq!(sim.presences(&token, &all[..1]).await.status, 200);
    sim.microsoft.clear_faults(None, None);
    sim.microsoft
        .set_fault(Fault::MissingUser { id }, Scope::All, None);
    let reply = sim.presences(&token, &all).await.json();
    let left: Vec<_> = reply["value"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["id"].clone())
        .collect();
    assert_eq!(left.len(), 2);
    assert!(!left.contains(&json!(all[1])));
}

#[tokio::test]
async fn a_fault_of_one_tenant_leaves_the_other_alone() {
    let sim = Sim::new();
    let (a, b) = (
        sim.app_token(&sim.contoso).await,
        sim.app_token(&sim.fabrikam).await,
    );
    sim.microsoft
        .set_fault(Fault::ServerError, Scope::Tenant(sim.contoso.id()), None);
    assert_eq!(sim.presences(&a, &ids(&sim.contoso, 1)).await.status, 500);
    assert_eq!(sim.presences(&b, &ids(&sim.fabrikam, 1)).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn faults_of_the_wire() {
    let sim = Sim::new();
    let token = sim.app_token(&sim.contoso).await;
    let request = || {
        http::Request::post("/v1.0/communications/getPresencesByUserId")
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json")
            .body(json!({ "ids": ids(&sim.contoso, 1) }).to_string().into())
            .unwrap()
    };
    let next = |fault| sim.microsoft.set_fault(fault, Scope::All, Some(1));

    next(Fault::Slow { delay_ms: 5_000 });
    let begun = tokio::time::Instant::now();
    assert_eq!(sim.send(request()).await.status, 200);
    assert!(begun.elapsed() >= Duration::from_secs(5));

    next(Fault::Stall);
    let response = sim.raw(request()).await;
    assert_eq!(response.status(), 200);
    let body = response.into_body().collect();
    assert!(
        tokio::time::timeout(Duration::from_mins(10), body)
            .await
            .is_err()
    );

    next(Fault::Reset);
    let response = sim.raw(request()).await;
    assert!(response.into_body().collect().await.is_err());

    next(Fault::HugeBody);
    let mut body = sim.raw(request()).await.into_body();
    let (mut bytes, mut largest) = (0, 0);
    while let Some(frame) = body.frame().await {
        let length = frame.unwrap().into_data().unwrap().len();
        bytes += length;
        largest = largest.max(length);
    }
    assert!(bytes > 100 << 20 && largest <= 64 << 10);
}

#[tokio::test(start_paused = true)]
async fn faults_of_sign_in() {
    let sim = Sim::new();
    let tenant = sim.contoso.id().to_string();
    let all = |fault, limit| sim.microsoft.set_fault(fault, Scope::All, limit);
    all(Fault::EntraUnavailable, Some(2));
    let discovery = format!("/{tenant}/v2.0/.well-known/openid-configuration");
    assert_eq!(sim.get(&discovery, "").await.status, 503);
    assert_eq!(sim.ask_token(&tenant, &APP_GRANT).await.status, 503);

    let params = FaultParams::default();
    all(Fault::parse("aadsts:53003", &params).unwrap(), Some(1));
    let reply = sim.ask_token(&tenant, &APP_GRANT).await;
    assert_eq!(reply.status, 400);
    assert_eq!(reply.json()["error_codes"], json!([53_003]));
    assert!(
        reply.json()["error_description"]
            .as_str()
            .unwrap()
            .starts_with("AADSTS53003: ")
    );

    all(Fault::SlowToken { delay_ms: 2_000 }, Some(1));
    let begun = tokio::time::Instant::now();
    assert_eq!(sim.ask_token(&tenant, &APP_GRANT).await.status, 200);
    assert!(begun.elapsed() >= Duration::from_secs(2));

    all(Fault::ReducedScope, Some(1));
    let token = sim.app_token(&sim.contoso).await;
    assert_eq!(
        sim.presences(&token, &ids(&sim.contoso, 1)).await.status,
        403
    );

    let upn = sim.contoso.people().remove(0).upn;
    let refresh = sim.contoso.mint_refresh_token(CLIENT, &upn);
    all(Fault::MissingRefreshToken, Some(1));
    let grant = [
        ("grant_type", "refresh_token"),
        ("refresh_token", refresh.as_str()),
    ];
    let reply = sim.ask_token(&tenant, &grant).await.json();
    assert!(reply["access_token"].is_string() && reply.get("refresh_token").is_none());

    all(
        Fault::BadIdToken {
            flaw: IdTokenFlaw::Alg,
        },
        Some(1),
    );
    let reply = sim.ask_token(&tenant, &grant).await.json();
    assert!(reply["id_token"].as_str().unwrap().ends_with('.'));

    all(Fault::ConsentWithdrawn, Some(2));
    let reply = sim.ask_token(&tenant, &APP_GRANT).await.json();
    assert_eq!(reply["error_codes"], json!([700_016]));
    let reply = sim.ask_token(&tenant, &grant).await.json();
    assert_eq!(reply["error_codes"], json!([65_001]));
}

#[tokio::test]
async fn faults_are_set_and_cleared_over_http() {
    let sim = Sim::new();
    let token = sim.app_token(&sim.contoso).await;
    let body = json!({ "name": "throttle", "tenant": "contoso.example", "endpoint": "presence", "retry_after": 3 });
    let reply = sim.post("/sim/faults", "", &body).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(
        sim.get("/sim", "").await.json()["faults"][0]["name"],
        "throttle"
    );
    let spoiled = sim.presences(&token, &ids(&sim.contoso, 1)).await;
    assert_eq!((spoiled.status, spoiled.header("retry-after")), (429, "3"));
    assert_eq!(sim.get("/v1.0/users?$top=1", &token).await.status, 200);
    let delete = http::Request::delete("/sim/faults/throttle");
    assert_eq!(
        sim.send(delete.body(axum::body::Body::empty()).unwrap())
            .await
            .status,
        200
    );
    assert_eq!(
        sim.presences(&token, &ids(&sim.contoso, 1)).await.status,
        200
    );

    let reply = sim
        .post("/sim/faults", "", &json!({ "name": "throtle" }))
        .await;
    assert_eq!(reply.status, 400);
    let body = reply.json();
    assert!(
        body["valid"]
            .as_array()
            .unwrap()
            .contains(&json!("throttle"))
    );
    let typo = json!({ "name": "throttle", "retryafter": 3 });
    assert_eq!(sim.post("/sim/faults", "", &typo).await.status, 400);
}

#[tokio::test]
async fn presence_and_people_are_changed_over_http() {
    let sim = Sim::new();
    let token = sim.app_token(&sim.contoso).await;
    let person = sim.contoso.people().remove(0);
    let body = json!({ "upn": person.upn, "availability": "Busy", "activity": "InACall" });
    assert_eq!(sim.post("/sim/presence", "", &body).await.status, 200);
    let id = person.id.to_string();
    let reply = sim.presences(&token, std::slice::from_ref(&id)).await;
    assert_eq!(shown(&reply, &id).1, "InACall");
    let body = json!({ "upn": person.upn });
    assert_eq!(sim.post("/sim/people/delete", "", &body).await.status, 200);
    assert!(sim.contoso.person(&person.upn).is_none());
    let again = sim.post("/sim/people/delete", "", &body).await;
    assert_eq!(again.status, 400);
    assert!(
        again.json()["error"]
            .as_str()
            .unwrap()
            .contains("nobody is called")
    );
}

/// Faults that do harm on the way: what is in them, without falling for them.
#[tokio::test(start_paused = true)]
async fn hostile_faults() {
    let sim = Sim::new();
    let token = sim.app_token(&sim.contoso).await;
    let all = ids(&sim.contoso, 3);
    let answer = async |fault: Fault| {
        sim.microsoft.set_fault(fault, Scope::All, Some(1));
        sim.presences_unread(&token, &all).await
    };
    let packed = async |fault: Fault, most: usize| {
        let response = answer(fault).await;
        assert_eq!(response.headers()["content-encoding"], "gzip");
        let mut body = response.into_body();
        let mut came = Vec::new();
        while came.len() < most
            && let Some(frame) = body.frame().await
        {
            came.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
        came
    };
    let bomb = packed(Fault::GzipBomb, 40 << 10).await;
    let mut plain = 0;
    let mut unpacked = flate2::read::GzDecoder::new(bomb.as_slice());
    let mut piece = vec![0; 64 << 10];
    while let Ok(count @ 1..) = std::io::Read::read(&mut unpacked, &mut piece) {
        plain += count;
    }
    assert!(plain > 900 * bomb.len(), "{plain} of {}", bomb.len());
    let hollow = packed(Fault::GzipHollow, 1 << 20).await;
    let read = std::io::Read::read(
        &mut flate2::read::GzDecoder::new(hollow.as_slice()),
        &mut [0; 9],
    );
    assert!(read.is_err(), "not one byte: {read:?}");
    let garbage = packed(Fault::GzipGarbage, 1 << 20).await;
    assert_ne!(garbage[..2], [0x1f, 0x8b]);

    let mut endless = answer(Fault::Endless).await.into_body();
    assert_eq!(endless.size_hint().exact(), None);
    for _ in 0..200 {
        assert!(endless.frame().await.unwrap().is_ok());
    }
    let mut drip = answer(Fault::Drip { delay_ms: 1_000 }).await.into_body();
    let begun = tokio::time::Instant::now();
    for _ in 0..5 {
        let frame = drip.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap().len(), 1);
    }
    assert_eq!(begun.elapsed().as_secs(), 5);

    let reply = async |fault| Reply::read(answer(fault).await).await;
    let deep = reply(Fault::DeepJson).await;
    assert!(deep.text.len() >= 50_000 && deep.text.starts_with("[[["));
    assert!(
        reply(Fault::PortalPage)
            .await
            .text
            .starts_with("<!doctype html>")
    );
    let error = reply(Fault::ErrorInOk).await;
    assert_eq!(
        (error.status, &error.json()["error"]["code"]),
        (200, &json!("serviceNotAvailable"))
    );
    let charset = answer(Fault::WrongCharset).await;
    assert_eq!(
        charset.headers()["content-type"],
        "application/json; charset=utf-16"
    );
    let bytes = charset.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(bytes[..4], [0xFE, 0xFF, 0, b'{']);
    let more = reply(Fault::EndlessPages).await.json();
    assert!(more["@odata.nextLink"].as_str().unwrap().contains("/v1.0/"));
    let params = FaultParams {
        status: Some(308),
        ..FaultParams::default()
    };
    let moved = reply(Fault::parse("redirect", &params).unwrap()).await;
    assert_eq!(moved.status, 308);
}

/// The table of the document is the table of the code.
#[test]
fn the_document_lists_every_fault() {
    let text = include_str!("../../docs/simulator-fidelity.md");
    let rows: Vec<_> = text.lines().filter(|l| l.starts_with("| `")).collect();
    let faults: Vec<_> = Fault::ALL
        .iter()
        .map(|f| {
            format!("| `{}` | {} | {} |", f.name, f.parameters, f.about).replace("|  |", "| |")
        })
        .collect();
    let listed: Vec<_> = rows
        .iter()
        .skip_while(|l| !l.contains("`throttle`"))
        .map(|l| (*l).to_owned())
        .collect();
    assert_eq!(listed, faults);
}
