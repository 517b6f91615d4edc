//! Microsoft's documented exchanges, replayed through the real client. Where they come from: `tests/fixtures/README.md`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::response::{IntoResponse as _, Response};
use presence_bridge::clock::Clock;
use presence_bridge::microsoft::error::MicrosoftError;
use presence_bridge::microsoft::{
    AppCredential, Entra, Graph, HttpTransport, Recovery, RouterTransport,
};
use presence_bridge::model::{TenantId, Timestamp, Upn, UserId};
use presence_bridge::secret::Secret;
use serde_json::Value;
use url::Url;
use uuid::{Uuid, uuid};

use crate::support::openapi::{Checked, Seen};

const TENANT: TenantId = TenantId(uuid!("22222222-2222-4222-8222-222222222222"));
const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

fn fixture(name: &str) -> Value {
    let path = format!(
        "{}/tests/fixtures/microsoft/{name}.json",
        env!("CARGO_MANIFEST_DIR")
    );
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Answers as documented, after a look at whether we asked as documented.
fn replay(name: &str) -> (Arc<dyn HttpTransport>, Arc<Mutex<Seen>>) {
    let exchange = Arc::new(fixture(name));
    let router = axum::Router::new().fallback(move |request: axum::extract::Request| {
        let exchange = exchange.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
            let expected = &exchange["request"];
            assert_eq!(head.method.as_str(), expected["method"]);
            assert_eq!(head.uri.path(), expected["path"]);
            if let Some(json) = expected.get("body") {
                assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), *json);
            }
            let form: HashMap<String, String> =
                url::form_urlencoded::parse(&body).into_owned().collect();
            for (field, value) in expected["form"].as_object().into_iter().flatten() {
                assert_eq!(form[field], *value);
            }
            answer(&exchange["response"])
        }
    });
    let (transport, seen) = Checked::new(RouterTransport(router));
    (transport, seen)
}

fn answer(described: &Value) -> Response {
    let mut response = described["body"].to_string().into_response();
    let status = u16::try_from(described["status"].as_u64().unwrap()).unwrap();
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
    response.headers_mut().clear();
    for (name, value) in described["headers"].as_object().unwrap() {
        let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
        response
            .headers_mut()
            .insert(name, value.as_str().unwrap().parse().unwrap());
    }
    response
}

fn graph(name: &str) -> (Graph, Arc<Mutex<Seen>>) {
    let (transport, seen) = replay(name);
    let root = Url::parse("https://graph.microsoft.com").unwrap();
    (Graph::new(transport, root), seen)
}

fn entra(name: &str) -> Entra {
    Entra::new(
        replay(name).0,
        Url::parse("https://login.microsoftonline.com").unwrap(),
        Url::parse("https://graph.microsoft.com").unwrap(),
        Uuid::nil(),
        AppCredential::Secret(Secret::new("example")),
        Clock::test(NOW),
    )
    .unwrap()
}

fn ids() -> [UserId; 2] {
    [
        UserId(uuid!("fa8bf3dc-eca7-46b7-bad1-db199b62afc3")),
        UserId(uuid!("66825e03-7ef5-42da-9069-724602c31f6b")),
    ]
}

async fn refused(name: &str) -> MicrosoftError {
    let (graph, seen) = graph(name);
    let error = graph
        .presences(&Secret::new("t"), &ids())
        .await
        .unwrap_err();
    let violations = &seen.lock().unwrap().violations;
    assert!(violations.is_empty(), "{name}: {violations:?}");
    error
}

#[tokio::test(start_paused = true)]
async fn presences_as_documented() {
    let (graph, seen) = graph("presences");
    let map = graph.presences(&Secret::new("t"), &ids()).await.unwrap();
    let shown = |id| {
        let presence = &map[&id];
        assert_eq!(presence.out_of_office, Some(false));
        (presence.availability.as_str(), presence.activity.as_str())
    };
    assert_eq!(shown(ids()[0]), ("Busy", "InAMeeting"));
    assert_eq!(shown(ids()[1]), ("Away", "Away"));
    assert!(seen.lock().unwrap().violations.is_empty());
}

#[tokio::test(start_paused = true)]
async fn throttling_as_documented() {
    for (name, wait) in [("throttled", 10), ("throttled-unknown-error", 315)] {
        let after = Some(Duration::from_secs(wait));
        assert_eq!(
            refused(name).await.recovery(),
            Recovery::Throttled { after }
        );
    }
}

#[tokio::test(start_paused = true)]
async fn errors_as_documented() {
    let error = refused("error-envelope").await;
    assert_eq!(error.recovery(), Recovery::Split);
    assert_eq!(
        error.correlation_id(),
        Some("11111111-aaaa-4aaa-8aaa-111111111111")
    );
    assert!(error.to_string().contains("BadRequest"));

    let error = refused("token-expired").await;
    assert_eq!(error.recovery(), Recovery::FreshToken { claims: None });

    let claims = r#"{"access_token":{"nbf":{"essential":true, "value":"1604106651"}}}"#;
    let claims = Some(claims.to_owned());
    let error = refused("claims-challenge").await;
    assert_eq!(error.recovery(), Recovery::FreshToken { claims });

    let error = refused("forbidden").await;
    assert!(
        matches!(error.recovery(), Recovery::AskAdministrator(c) if c.code == "Authorization_RequestDenied")
    );
}

#[tokio::test(start_paused = true)]
async fn a_batch_as_documented() {
    let (graph, _) = graph("batch");
    let upn = |text: &str| Upn::parse(text).unwrap();
    let mut upns = vec![upn("adelev@contoso.com")];
    upns.extend((1..30).map(|n| upn(&format!("user{n}@contoso.com"))));
    upns.push(upn(&format!("{}@contoso.com", "x".repeat(120))));
    let lookup = graph.lookup(&Secret::new("t"), &upns).await.unwrap();
    let adele = UserId(uuid!("87d349ed-44d7-43e1-9a83-5f2406dee5bd"));
    assert_eq!(lookup.found, [(upns[0].clone(), adele)]);
    assert_eq!(lookup.not_found.len(), 14 + 1);
    let [(names, error)] = lookup.failed.as_slice() else {
        panic!("{:?}", lookup.failed)
    };
    assert_eq!(names[..], upns[15..30]);
    let after = Some(Duration::from_secs(10));
    assert_eq!(error.recovery(), Recovery::Throttled { after });
    assert_eq!(lookup.units, 1);
}

#[tokio::test(start_paused = true)]
async fn tokens_as_documented() {
    let old = Secret::new("old");
    let refreshed = entra("token-refreshed")
        .refresh(TENANT, &old)
        .await
        .unwrap();
    assert_eq!(refreshed.access.secret.expose(), "example-access-token");
    assert_eq!(
        refreshed.access.expires_at,
        NOW.plus(Duration::from_secs(4231))
    );
    assert!(refreshed.access.has_scope("Presence.Read.All"));
    assert_eq!(
        refreshed.refresh_token.unwrap().expose(),
        "example-refresh-token"
    );

    let token = entra("token-application").app_token(TENANT).await.unwrap();
    assert_eq!(token.expires_at, NOW.plus(Duration::from_secs(86_399)));
}

#[tokio::test(start_paused = true)]
async fn refusals_of_tokens_as_documented() {
    let old = Secret::new("old");
    let refused = async |name| entra(name).refresh(TENANT, &old).await.unwrap_err();
    let error = refused("token-unused").await;
    assert!(matches!(error.recovery(), Recovery::Reauthorize(c) if c.code == "AADSTS700082"));
    assert_eq!(
        error.correlation_id(),
        Some("44444444-4444-4444-8444-444444444444")
    );

    let error = refused("token-mfa").await;
    assert!(matches!(error.recovery(), Recovery::Reauthorize(c) if c.code == "AADSTS50076"));
    assert!(
        matches!(error, MicrosoftError::OAuth(e) if e.claims.as_deref().unwrap().contains("capolids"))
    );

    let error = refused("token-wrong-secret").await;
    assert!(
        matches!(error.recovery(), Recovery::OurFault { for_all: true, cause } if cause.code == "AADSTS7000215")
    );

    let error = refused("token-application-removed").await;
    assert!(matches!(error.recovery(), Recovery::AskAdministrator(c) if c.code == "AADSTS700016"));
}

#[tokio::test(start_paused = true)]
async fn discovery_as_recorded() {
    let found = entra("discovery").discover("contoso.com").await.unwrap();
    assert_eq!(found.tenant, TENANT);
    assert_eq!(found.graph_host.as_deref(), Some("graph.microsoft.com"));
    assert_eq!(found.region.as_deref(), Some("WW"));
    let error = entra("discovery-unknown")
        .discover("nobody.example.com")
        .await
        .unwrap_err();
    assert!(matches!(error.recovery(), Recovery::AskAdministrator(c) if c.code == "AADSTS90002"));
}
