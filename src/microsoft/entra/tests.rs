use std::collections::HashMap;

use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::request::Parts;
use jsonwebtoken::{DecodingKey, Validation};
use serde_json::json;

use super::super::error::Recovery;
use super::super::transport::RouterTransport;
use super::*;
use crate::secret::sha256;

const CLIENT: Uuid = Uuid::from_u128(0x1111);
const TENANT: TenantId = TenantId(Uuid::from_u128(0x2222));
const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

type Form = HashMap<String, String>;
type Seen = Arc<Mutex<Vec<(Parts, Form)>>>;

fn entra_with(
    credential: AppCredential,
    answer: impl Fn() -> Response + Clone + Send + Sync + 'static,
) -> (Entra, Seen) {
    let seen = Seen::default();
    let log = seen.clone();
    let router = axum::Router::new().fallback(move |request: axum::extract::Request| {
        let (log, answer) = (log.clone(), answer.clone());
        async move {
            let (parts, body) = request.into_parts();
            let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
            let form = url::form_urlencoded::parse(&bytes).into_owned().collect();
            log.lock().unwrap().push((parts, form));
            answer()
        }
    });
    let entra = Entra::new(
        Arc::new(RouterTransport(router)),
        Url::parse("https://login.example").unwrap(),
        Url::parse("https://graph.example").unwrap(),
        CLIENT,
        credential,
        Clock::test(NOW),
    );
    (entra.unwrap(), seen)
}

fn entra(answer: impl Fn() -> Response + Clone + Send + Sync + 'static) -> (Entra, Seen) {
    entra_with(AppCredential::Secret(Secret::new("s/+&=")), answer)
}

fn answer(status: u16, body: &Value) -> Response {
    let status = http::StatusCode::from_u16(status).unwrap();
    let json = [("content-type", "application/json; charset=utf-8")];
    (status, json, body.to_string()).into_response()
}

#[tokio::test(start_paused = true)]
async fn an_application_token_is_asked_for_as_documented() {
    let (entra, seen) = entra(|| {
        answer(
            200,
            &json!({"token_type": "Bearer", "expires_in": 3599, "ext_expires_in": 3599, "access_token": "at"}),
        )
    });
    let token = entra.app_token(TENANT).await.unwrap();
    assert_eq!(token.secret.expose(), "at");
    assert_eq!(token.expires_at, NOW.plus(Duration::from_secs(3599)));
    assert!(token.scopes.is_empty());
    let seen = seen.lock().unwrap();
    let (head, form) = &seen[0];
    assert_eq!(head.uri.path(), format!("/{TENANT}/oauth2/v2.0/token"));
    assert!(head.headers.contains_key("client-request-id"));
    assert!(!head.headers.contains_key("origin") && !head.headers.contains_key("authorization"));
    let expected = [
        ("grant_type", "client_credentials"),
        ("client_id", &CLIENT.to_string()),
        ("client_secret", "s/+&="),
        ("scope", "https://graph.example/.default"),
    ];
    let expected: Form = expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    assert_eq!(*form, expected);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_brings_a_new_refresh_token_and_the_scopes_granted() {
    let (entra, seen) = entra(|| {
        answer(
            200,
            &json!({
            "token_type": "bearer", "expires_in": "4231", "access_token": "at", "refresh_token": "rt2", "id_token": "x",
            "scope": "openid  https://graph.microsoft.com/presence.read.all User.ReadBasic.All"}),
        )
    });
    let refreshed = entra.refresh(TENANT, &Secret::new("rt1")).await.unwrap();
    assert_eq!(refreshed.refresh_token.unwrap().expose(), "rt2");
    assert_eq!(
        refreshed.access.expires_at,
        NOW.plus(Duration::from_secs(4231))
    );
    assert!(refreshed.access.has_scope("Presence.Read.All"));
    assert!(refreshed.access.has_scope("User.ReadBasic.All"));
    assert!(!refreshed.access.has_scope("Presence.Read"));
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].1["refresh_token"], "rt1");
    assert_eq!(
        seen[0].1["scope"],
        "https://graph.example/Presence.Read.All https://graph.example/User.ReadBasic.All offline_access openid profile"
    );
}

#[tokio::test(start_paused = true)]
async fn lives_that_make_no_sense_are_bounded() {
    for (life, believed) in [
        (json!(null), SHORTEST_LIFE),
        (json!("soon"), SHORTEST_LIFE),
        (json!(-1), SHORTEST_LIFE),
        (json!(u64::MAX), LONGEST_LIFE),
    ] {
        let (entra, _) = entra(move || {
            answer(
                200,
                &json!({"token_type": "Bearer", "access_token": "at", "expires_in": life}),
            )
        });
        let token = entra.app_token(TENANT).await.unwrap();
        assert_eq!(token.expires_at, NOW.plus(believed));
    }
}

#[tokio::test]
async fn a_certificate_signs_an_assertion_for_the_tenants_token_endpoint() {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let params = rcgen::CertificateParams::new(vec!["app".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let credential = AppCredential::Certificate {
        certificate_pem: certificate.pem(),
        private_key_pem: Secret::new(key.serialize_pem()),
    };
    let (entra, seen) = entra_with(credential, || {
        answer(
            200,
            &json!({"token_type": "Bearer", "access_token": "at", "expires_in": 3600}),
        )
    });
    entra.app_token(TENANT).await.unwrap();
    entra.app_token(TENANT).await.unwrap();
    let seen = seen.lock().unwrap();
    let form = &seen[0].1;
    assert!(!form.contains_key("client_secret"));
    assert_eq!(
        form["client_assertion_type"],
        "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    );
    let jwt = &form["client_assertion"];
    let header = jsonwebtoken::decode_header(jwt).unwrap();
    assert_eq!(
        (header.alg, header.typ.as_deref()),
        (Algorithm::PS256, Some("JWT"))
    );
    let thumbprint = URL_SAFE_NO_PAD.encode(sha256(certificate.der()));
    assert_eq!(header.x5t_s256, Some(thumbprint));

    let mut validation = Validation::new(Algorithm::PS256);
    validation.validate_exp = false;
    validation.set_audience(&[format!("https://login.example/{TENANT}/oauth2/v2.0/token")]);
    let public = rcgen::PublicKeyData::subject_public_key_info(&key);
    let public = base64::engine::general_purpose::STANDARD.encode(public);
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{public}\n-----END PUBLIC KEY-----\n");
    let public = DecodingKey::from_rsa_pem(pem.as_bytes()).unwrap();
    let claims = jsonwebtoken::decode::<Value>(jwt, &public, &validation)
        .unwrap()
        .claims;
    assert_eq!(claims["iss"], CLIENT.to_string());
    assert_eq!(claims["sub"], CLIENT.to_string());
    assert_eq!(claims["nbf"], NOW.as_secs());
    assert_eq!(claims["exp"], NOW.as_secs() + 300);
    assert_ne!(*jwt, seen[1].1["client_assertion"]);
}

#[test]
fn a_credential_that_cannot_sign_is_refused_at_once() {
    let build = |certificate_pem: &str, key: &str| {
        Entra::new(
            Arc::new(RouterTransport(axum::Router::new())),
            Url::parse("https://login.example").unwrap(),
            Url::parse("https://graph.example").unwrap(),
            CLIENT,
            AppCredential::Certificate {
                certificate_pem: certificate_pem.to_owned(),
                private_key_pem: Secret::new(key),
            },
            Clock::system(),
        )
        .map(|_| ())
    };
    let other = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
    let pem = other.cert.pem();
    assert_eq!(
        build("nonsense", "nonsense"),
        Err(EntraSetupError::Certificate)
    );
    assert_eq!(build(&pem, "nonsense"), Err(EntraSetupError::PrivateKey));
    let elliptic = other.signing_key.serialize_pem();
    assert_eq!(build(&pem, &elliptic), Err(EntraSetupError::PrivateKey));
}

/// Three secrets; Entra answers as told, by the secret.
fn with_secrets(
    answer: impl Fn(&str) -> Response + Clone + Send + Sync + 'static,
) -> (Entra, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let log = asked.clone();
    let router = axum::Router::new().fallback(move |request: axum::extract::Request| {
        let (log, answer) = (log.clone(), answer.clone());
        async move {
            let bytes = axum::body::to_bytes(request.into_body(), 1 << 20)
                .await
                .unwrap();
            let form: Form = url::form_urlencoded::parse(&bytes).into_owned().collect();
            let secret = form["client_secret"].clone();
            log.lock().unwrap().push(secret.clone());
            answer(&secret)
        }
    });
    let secrets = ["a", "b", "c"]
        .map(|secret| Credential::new(AppCredential::Secret(Secret::new(secret)), None).unwrap());
    let entra = Entra::with_credentials(
        Arc::new(RouterTransport(router)),
        Url::parse("https://login.example").unwrap(),
        Url::parse("https://graph.example").unwrap(),
        CLIENT,
        secrets.into(),
        Clock::test(NOW),
    );
    (entra.unwrap(), asked)
}

fn token() -> Response {
    answer(
        200,
        &json!({"token_type": "Bearer", "access_token": "at", "expires_in": 3600}),
    )
}

fn refused(error: &str, code: u64) -> Response {
    answer(401, &json!({"error": error, "error_codes": [code]}))
}

#[tokio::test]
async fn a_refused_credential_of_ours_gives_way_to_the_next_one_which_is_remembered() {
    let (entra, asked) = with_secrets(|secret| match secret {
        "a" => refused("invalid_client", 7_000_222),
        _ => token(),
    });
    entra.app_token(TENANT).await.unwrap();
    let old = Secret::new("rt");
    entra.refresh(TENANT, &old).await.unwrap();
    assert_eq!(*asked.lock().unwrap(), ["a", "b", "b"]);
    let facts = entra.credentials();
    let seen: Vec<_> = facts.iter().map(|f| (f.refused, f.in_use)).collect();
    assert_eq!(seen, [(true, false), (false, true), (false, false)]);
    assert_eq!(facts[1].to_string(), "client secret no. 2");
}

#[tokio::test]
async fn all_of_them_refused_it_is_our_fault_and_each_was_tried_once() {
    let (entra, asked) = with_secrets(|_| refused("invalid_client", 7_000_215));
    let error = entra.app_token(TENANT).await.unwrap_err();
    let ours = matches!(error.recovery(), Recovery::OurFault { for_all: true, .. });
    assert!(ours, "{error}");
    assert_eq!(*asked.lock().unwrap(), ["a", "b", "c"]);
}

#[tokio::test]
async fn a_refusal_for_another_reason_spends_no_further_credential() {
    let (entra, asked) = with_secrets(|_| refused("invalid_grant", 50173));
    let old = Secret::new("rt");
    entra.refresh(TENANT, &old).await.unwrap_err();
    assert_eq!(asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_refusal_keeps_the_numbers_and_ids_and_drops_the_text() {
    let (entra, _) = entra(|| {
        answer(
            400,
            &json!({
            "error": "interaction_required",
            "error_description": "AADSTS50076: Due to a change … ann@contoso.com\r\nTrace ID: t-1",
            "error_codes": [50076], "trace_id": "t-1", "correlation_id": "c-1", "suberror": "basic_action",
            "claims": "{\"access_token\":{}}"}),
        )
    });
    let error = entra
        .refresh(TENANT, &Secret::new("rt1"))
        .await
        .unwrap_err();
    let MicrosoftError::OAuth(refusal) = &error else {
        panic!("{error:?}")
    };
    assert_eq!(refusal.codes, [50076]);
    assert_eq!(refusal.suberror, "basic_action");
    assert_eq!(refusal.claims.as_deref(), Some("{\"access_token\":{}}"));
    assert_eq!(error.correlation_id(), Some("c-1"));
    assert!(matches!(error.recovery(), Recovery::Reauthorize(c) if c.code == "AADSTS50076"));
    let printed = format!("{error} {error:?}");
    assert!(!printed.contains("ann@") && !printed.contains("rt1"));
}

#[tokio::test]
async fn throttling_and_failures_of_the_service_keep_their_wait() {
    for (status, body) in [
        (429, ""),
        (429, "{\"error\":\"invalid_grant\"}"),
        (503, "<html>"),
        (503, "{\"error\":\"server_error\",\"error_codes\":[90033]}"),
    ] {
        let (entra, _) = entra(move || {
            let status = http::StatusCode::from_u16(status).unwrap();
            (status, [("retry-after", "17")], body).into_response()
        });
        let after = Some(Duration::from_secs(17));
        let recovery = entra.app_token(TENANT).await.unwrap_err().recovery();
        let expected = if status == 429 {
            Recovery::Throttled { after }
        } else {
            Recovery::Retry { after }
        };
        assert_eq!(recovery, expected, "{status} {body}");
    }
}

#[tokio::test]
async fn answers_that_are_no_tokens_show_nothing_of_themselves() {
    for (body, kind) in [
        ("{\"access_token\":\"hunter2\"", "application/json"),
        ("{\"access_token\":{\"x\":\"hunter2\"}}", "application/json"),
        ("hunter2", "text/html"),
        ("", "application/json"),
    ] {
        let (entra, _) = entra(move || ([("content-type", kind)], body).into_response());
        let error = entra.app_token(TENANT).await.unwrap_err();
        assert!(error.is_bad_answer(), "{error:?}");
        assert_eq!(error.recovery(), Recovery::Retry { after: None });
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}

#[tokio::test]
async fn a_tenant_is_found_by_its_domain() {
    let (entra, seen) = entra(|| {
        answer(
            200,
            &json!({
            "issuer": format!("https://login.microsoftonline.com/{TENANT}/v2.0"),
            "tenant_region_scope": "EU", "msgraph_host": "graph.microsoft.com"}),
        )
    });
    let found = entra.discover(" Contoso.COM").await.unwrap();
    assert_eq!(found.tenant, TENANT);
    assert_eq!(found.graph_host.as_deref(), Some("graph.microsoft.com"));
    assert_eq!(found.region.as_deref(), Some("EU"));
    assert_eq!(
        seen.lock().unwrap()[0].0.uri.path(),
        "/contoso.com/v2.0/.well-known/openid-configuration"
    );
}

#[tokio::test]
async fn what_is_no_domain_is_never_sent() {
    let (entra, seen) = entra(|| answer(200, &json!({})));
    let long = format!("{}.com", "a".repeat(64));
    for bad in [
        "",
        "contoso",
        "a..com",
        "-a.com",
        "a-.com",
        "../x.com",
        "a.com/b",
        "a.com?x",
        "a.c",
        "a.c0m",
        "ä.com",
        "common",
        "a b.com",
        long.as_str(),
    ] {
        let error = entra.discover(bad).await.unwrap_err();
        assert!(
            matches!(
                error,
                MicrosoftError::Input {
                    problem: BadInput::Tenant,
                    ..
                }
            ),
            "{bad}"
        );
    }
    assert!(seen.lock().unwrap().is_empty());
    for good in ["a.co", "contoso.onmicrosoft.com", "x--y.a1.de"] {
        assert!(is_domain(good), "{good}");
    }
}

#[tokio::test]
async fn unknown_tenants_and_personal_accounts_are_told_so() {
    let (unknown, _) = entra(|| {
        answer(
            400,
            &json!({"error": "invalid_tenant", "error_codes": [90002]}),
        )
    });
    let recovery = unknown.discover("nobody.com").await.unwrap_err().recovery();
    assert!(matches!(recovery, Recovery::AskAdministrator(c) if c.code == "AADSTS90002"));
    let (personal, _) = entra(|| {
        answer(
            200,
            &json!({"issuer": format!("https://l.example/{PERSONAL_ACCOUNTS}/v2.0")}),
        )
    });
    let error = personal.discover("outlook.com").await.unwrap_err();
    assert!(matches!(
        error,
        MicrosoftError::Input {
            problem: BadInput::PersonalAccounts,
            ..
        }
    ));
    let (template, _) =
        entra(|| answer(200, &json!({"issuer": "https://l.example/{tenantid}/v2.0"})));
    assert!(
        template
            .discover("x.com")
            .await
            .unwrap_err()
            .is_bad_answer()
    );
}
