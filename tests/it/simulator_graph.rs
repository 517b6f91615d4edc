//! The simulated Graph behaves as documented.

use std::collections::HashSet;
use std::time::Duration;

use axum::body::Body;
use http::Request;
use presence_bridge::simulator::{
    Endpoint, Fault, Limit, Limits, Options, Scope, Switches, UnknownPerson,
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::simulator_support::{CLIENT, Sim, ids, shown};

#[tokio::test]
async fn bulk_presence_takes_650_ids_and_not_one_more() {
    let sim = Sim::new();
    let token = sim.app_token(&sim.contoso).await;
    let ok = sim.presences(&token, &ids(&sim.contoso, 650)).await;
    assert_eq!(ok.status, 200, "{}", ok.text);
    assert_eq!(ok.json()["value"].as_array().unwrap().len(), 650);
    assert_eq!(
        sim.presences(&token, &ids(&sim.contoso, 651)).await.status,
        400
    );
    assert_eq!(sim.presences(&token, &[]).await.status, 400);
    let not_a_guid = ["ada@contoso.example".to_owned()];
    assert_eq!(sim.presences(&token, &not_a_guid).await.status, 400);
    assert_eq!(sim.microsoft.requests().largest_ids, 651);
    let count = sim
        .microsoft
        .requests()
        .of(sim.contoso.id(), Endpoint::Presence);
    assert_eq!((count.total, count.ok, count.errors), (4, 1, 3));
}

#[tokio::test]
async fn what_is_told_is_shown_with_a_rising_sequence() {
    let sim = Sim::new();
    let token = sim.app_token(&sim.contoso).await;
    let person = sim.contoso.people().remove(0);
    let id = person.id.to_string();
    let mut sequences = Vec::new();
    for (availability, activity) in [("Busy", "InACall"), ("Glowing", "Levitating")] {
        assert!(
            sim.contoso
                .set_presence(&person.upn, availability, activity)
        );
        let reply = sim.presences(&token, std::slice::from_ref(&id)).await;
        assert_eq!(
            shown(&reply, &id),
            (availability.to_owned(), activity.to_owned())
        );
        let body = reply.json();
        sequences.push(
            body["value"][0]["sequenceNumber"]
                .as_str()
                .unwrap()
                .to_owned(),
        );
    }
    assert!(sequences[0] < sequences[1]);
    assert!(
        !sim.contoso
            .set_presence("nobody@contoso.example", "Busy", "Busy")
    );
}

#[tokio::test]
async fn people_live_their_day() {
    let sim = Sim::living();
    let token = sim.app_token(&sim.contoso).await;
    let all = ids(&sim.contoso, 650);
    let states = |reply: crate::simulator_support::Reply| -> Vec<_> {
        all.iter().map(|id| shown(&reply, id)).collect()
    };
    let before = states(sim.presences(&token, &all).await);
    assert!(before.iter().collect::<HashSet<_>>().len() > 5);
    sim.clock.jump(Duration::from_mins(30));
    let after = states(sim.presences(&token, &all).await);
    let moved = before.iter().zip(&after).filter(|(a, b)| a != b).count();
    assert!(moved > 100, "{moved} of 650 moved in half an hour");
}

#[tokio::test]
async fn a_tenant_sees_nobody_of_another() {
    let sim = Sim::new();
    let token = sim.app_token(&sim.fabrikam).await;
    let foreign = sim.contoso.people().remove(0);
    let nobody = Uuid::new_v4().to_string();
    let id = foreign.id.to_string();
    let reply = sim.presences(&token, &[id.clone(), nobody.clone()]).await;
    assert_eq!(shown(&reply, &id), shown(&reply, &nobody));
    assert_eq!(shown(&reply, &id).0, "PresenceUnknown");
    for key in [id.as_str(), foreign.upn.as_str()] {
        let reply = sim.get(&format!("/v1.0/users/{key}"), &token).await;
        assert_eq!(reply.status, 404);
        assert_eq!(reply.json()["error"]["code"], "Request_ResourceNotFound");
    }
    let filter = format!(
        "/v1.0/users?$filter=userPrincipalName%20eq%20'{}'",
        foreign.upn.replace('\'', "''")
    );
    assert_eq!(sim.get(&filter, &token).await.json()["value"], json!([]));
}

#[tokio::test]
async fn unknown_people_are_answered_as_the_switch_says() {
    let sim = Sim::new();
    let token = sim.app_token(&sim.contoso).await;
    let wanted = [ids(&sim.contoso, 1).remove(0), Uuid::new_v4().to_string()];
    for (switch, status, entries) in [
        (UnknownPerson::PresenceUnknown, 200, 2),
        (UnknownPerson::Omitted, 200, 1),
        (UnknownPerson::BadRequest, 400, 0),
    ] {
        sim.microsoft.set_switches(|s| s.unknown_person = switch);
        let reply = sim.presences(&token, &wanted).await;
        assert_eq!(reply.status, status);
        let found = reply.json()["value"].as_array().map_or(0, Vec::len);
        assert_eq!(found, entries);
    }
}

#[tokio::test]
async fn users_are_found_by_upn_fifteen_at_a_time() {
    let sim = Sim::new();
    let token = sim.app_token(&sim.contoso).await;
    let list = |n| {
        let upns = sim.contoso.people().into_iter().take(n);
        let quoted: Vec<_> = upns
            .map(|p| format!("'{}'", p.upn.to_uppercase().replace('\'', "''")))
            .collect();
        let filter = format!("userPrincipalName in ({})", quoted.join(","));
        let query = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("$filter", &filter)
            .append_pair("$select", "id,userPrincipalName")
            .append_pair("$top", "15")
            .finish();
        format!("/v1.0/users?{query}")
    };
    let reply = sim.get(&list(15), &token).await;
    assert_eq!(reply.json()["value"].as_array().unwrap().len(), 15);
    assert_eq!(reply.header("x-ms-resource-unit"), "1");
    assert_eq!(sim.get(&list(16), &token).await.status, 400);
}

#[tokio::test]
async fn one_user_is_found_by_every_documented_form() {
    let sim = Sim::new();
    let token = sim.app_token(&sim.contoso).await;
    let guest = sim.contoso.add_guest("ann@fabrikam.example");
    let odd = sim.contoso.add_person("$cash@contoso.example");
    for (path, id) in [
        (guest.upn.replace('#', "%23"), &guest),
        (guest.id.to_string(), &guest),
    ] {
        let reply = sim.get(&format!("/v1.0/users/{path}"), &token).await;
        assert_eq!(reply.json()["id"], id.id.to_string());
    }
    let form = "/v1.0/users('$cash@contoso.example')?$select=id";
    let reply = sim.get(form, &token).await.json();
    assert_eq!(reply["id"], odd.id.to_string());
    assert!(reply.get("displayName").is_none());
    let plain = "/v1.0/users/$cash@contoso.example";
    assert_eq!(sim.get(plain, &token).await.status, 400);
    let reply = sim.presences(&token, &[guest.id.to_string()]).await;
    assert_eq!(shown(&reply, &guest.id.to_string()).0, "PresenceUnknown");
}

#[tokio::test]
async fn a_listing_is_paged_and_meets_everybody_once() {
    let sim = Sim::new();
    let token = sim.app_token(&sim.contoso).await;
    let mut next = "/v1.0/users?$select=id&$top=300".to_owned();
    let mut met = Vec::new();
    loop {
        let body = sim.get(&next, &token).await.json();
        let page = body["value"].as_array().unwrap().clone();
        met.extend(page.iter().map(|u| u["id"].as_str().unwrap().to_owned()));
        let Some(link) = body["@odata.nextLink"].as_str() else {
            break;
        };
        next = link.strip_prefix("http://sim.example").unwrap().to_owned();
    }
    assert_eq!(met.len(), 700);
    assert_eq!(met.into_iter().collect::<HashSet<_>>().len(), 700);
}

#[tokio::test]
async fn presence_is_throttled_in_a_sliding_window_and_refused_calls_count() {
    let sim = Sim::with(Options {
        limits: Limits {
            presence: Limit::new(3, 30),
            ..Limits::default()
        },
        ..Options::default()
    });
    let token = sim.app_token(&sim.contoso).await;
    let one = ids(&sim.contoso, 1);
    for _ in 0..3 {
        assert_eq!(sim.presences(&token, &one).await.status, 200);
    }
    sim.clock.jump(Duration::from_secs(10));
    let refused = sim.presences(&token, &one).await;
    assert_eq!(refused.status, 429);
    assert_eq!(refused.json()["error"]["code"], "TooManyRequests");
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((20..=21).contains(&wait), "{wait}");
    let other = sim.app_token(&sim.fabrikam).await;
    assert_eq!(sim.presences(&other, &one).await.status, 200);
    sim.clock.jump(Duration::from_secs(wait));
    // The refused call is still in the window, so two more pass and a third does not.
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(sim.presences(&token, &one).await.status);
    }
    assert_eq!(statuses, [200, 200, 429]);
}

#[tokio::test]
async fn a_batch_keeps_its_rules() {
    let sim = Sim::new();
    let token = sim.app_token(&sim.contoso).await;
    let batch = |requests: Value| json!({ "requests": requests });
    let get = |id: &str| json!({ "id": id, "method": "GET", "url": "/users?$top=1&$select=id" });
    let twenty: Vec<_> = (0..20).map(|n| get(&n.to_string())).collect();
    let reply = sim
        .post("/v1.0/$batch", &token, &batch(twenty.into()))
        .await;
    assert_eq!(reply.json()["responses"].as_array().unwrap().len(), 20);
    for bad in [
        json!((0..21).map(|n| get(&n.to_string())).collect::<Vec<_>>()),
        json!([get("a"), get("A")]),
        json!([]),
        json!([{ "id": "1", "method": "POST", "url": "/x", "body": {} }]),
    ] {
        let reply = sim.post("/v1.0/$batch", &token, &batch(bad.clone())).await;
        assert_eq!(reply.status, 400, "{bad}");
    }
    let mixed = json!([
        { "id": "lost", "method": "GET", "url": "/users/nobody@contoso.example" },
        { "id": "after", "method": "GET", "url": "/users?$top=1", "dependsOn": ["lost"] },
        { "id": "nested", "method": "POST", "url": "/$batch", "headers": { "Content-Type": "application/json" }, "body": {} },
        { "id": "versioned", "method": "GET", "url": "/v1.0/users" },
        get("fine"),
    ]);
    let reply = sim.post("/v1.0/$batch", &token, &batch(mixed)).await.json();
    let status = |id: &str| {
        let all = reply["responses"].as_array().unwrap();
        all.iter().find(|r| r["id"] == id).unwrap()["status"]
            .as_u64()
            .unwrap()
    };
    assert_eq!(
        ["lost", "after", "nested", "versioned", "fine"].map(status),
        [404, 424, 400, 400, 200]
    );
}

#[tokio::test]
async fn inside_a_batch_each_request_is_throttled_on_its_own() {
    let sim = Sim::new();
    let token = sim.app_token(&sim.contoso).await;
    let scope = Scope::TenantEndpoint(sim.contoso.id(), Endpoint::BatchItem);
    sim.microsoft
        .set_fault(Fault::Throttle { retry_after: 7 }, scope, Some(2));
    let requests: Vec<_> = (0..5)
        .map(|n| json!({ "id": n.to_string(), "method": "GET", "url": "/users?$top=1" }))
        .collect();
    let reply = sim
        .post("/v1.0/$batch", &token, &json!({ "requests": requests }))
        .await;
    assert_eq!(reply.status, 200);
    let body = reply.json();
    let throttled: Vec<_> = body["responses"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|r| r["status"] == 429)
        .collect();
    assert_eq!(throttled.len(), 2);
    assert!(throttled.iter().all(|r| r["headers"]["Retry-After"] == "7"));
}

#[tokio::test]
async fn tokens_are_checked_and_so_are_permissions() {
    let sim = Sim::new();
    let one = ids(&sim.contoso, 1);
    let reply = sim.presences("nonsense", &one).await;
    assert_eq!(reply.status, 401);
    assert_eq!(reply.json()["error"]["code"], "InvalidAuthenticationToken");
    assert!(
        reply
            .header("www-authenticate")
            .starts_with("Bearer realm=\"\", authorization_uri=")
    );

    let token = sim.app_token(&sim.contoso).await;
    sim.microsoft.expire_access_tokens(sim.contoso.id());
    assert_eq!(sim.presences(&token, &one).await.status, 401);
    let token = sim.app_token(&sim.contoso).await;
    assert_eq!(sim.presences(&token, &one).await.status, 200);
    sim.clock.jump(Duration::from_mins(91));
    assert_eq!(sim.presences(&token, &one).await.status, 401);

    let token = sim.app_token(&sim.contoso).await;
    sim.contoso
        .grant_consent(CLIENT, &["User.ReadBasic.All"], &[]);
    assert_eq!(sim.presences(&token, &one).await.status, 403);
    assert_eq!(sim.get("/v1.0/users?$top=1", &token).await.status, 200);
    sim.contoso.withdraw_consent(CLIENT);
    let reply = sim.get("/v1.0/users?$top=1", &token).await;
    assert_eq!(reply.status, 403);
    assert_eq!(reply.json()["error"]["code"], "Authorization_RequestDenied");
}

#[tokio::test]
async fn answers_carry_the_headers_support_asks_for() {
    let sim = Sim::new();
    let token = sim.app_token(&sim.contoso).await;
    let request = Request::get("/v1.0/users/nobody@contoso.example")
        .header("authorization", format!("Bearer {token}"))
        .header("client-request-id", "5b1c0a5e-4b8e-4b43-9f0e-000000000001")
        .body(Body::empty())
        .unwrap();
    let reply = sim.send(request).await;
    assert_eq!(
        reply.header("client-request-id"),
        "5b1c0a5e-4b8e-4b43-9f0e-000000000001"
    );
    assert!(Uuid::try_parse(reply.header("request-id")).is_ok());
    assert!(reply.header("x-ms-ags-diagnostic").contains("ServerInfo"));
    assert!(httpdate::parse_http_date(reply.header("date")).is_ok());
    let inner = &reply.json()["error"]["innerError"];
    assert_eq!(inner["request-id"], reply.header("request-id"));
}

#[tokio::test]
async fn somebody_new_is_seen_after_a_while() {
    let sim = Sim::with(Options {
        switches: Switches {
            replication_lag: 2,
            ..Switches::default()
        },
        ..Options::default()
    });
    let token = sim.app_token(&sim.contoso).await;
    sim.contoso.add_person("new.hire@contoso.example");
    let path = "/v1.0/users?$filter=userPrincipalName%20eq%20'new.hire@contoso.example'";
    let mut seen = Vec::new();
    for _ in 0..3 {
        let body = sim.get(path, &token).await.json();
        seen.push(body["value"].as_array().unwrap().len());
    }
    assert_eq!(seen, [0, 0, 1]);
}
