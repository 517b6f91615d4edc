use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::super::{AppCredential, Entra};
use super::*;
use crate::clock::Clock;
use crate::microsoft::transport::RouterTransport;

const CLIENT: Uuid = Uuid::from_u128(0x1111);
const TENANT: Uuid = Uuid::from_u128(0x2222_0000_0000_4000_8000_0000_0000_0000);
const ACCOUNT: Uuid = Uuid::from_u128(0x3333);
const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

struct Stage {
    entra: Entra,
    clock: Clock,
    pair: KeyPair,
    fetches: Arc<AtomicU32>,
    jwks: Arc<Mutex<Value>>,
}

/// The numbers of an RSA public key, out of its PKCS #1 form: SEQUENCE { INTEGER, INTEGER }.
fn numbers(pair: &KeyPair) -> (String, String) {
    let der = pair.public_key();
    let modulus = der.modulus().big_endian_without_leading_zero();
    let exponent = der.exponent().big_endian_without_leading_zero();
    (
        URL_SAFE_NO_PAD.encode(modulus),
        URL_SAFE_NO_PAD.encode(exponent),
    )
}

fn stage() -> Stage {
    let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let (n, e) = numbers(&pair);
    let jwks = json!({"keys": [
        {"kty": "EC", "kid": "of another kind", "x": "AA", "y": "AA"},
        {"kty": "RSA", "use": "sig", "kid": "k1", "n": n, "e": e, "issuer": "https://login.example/{tenantid}/v2.0"},
        {"kty": "RSA", "use": "enc", "kid": "for encryption", "n": n, "e": e},
        {"kty": "RSA", "use": "sig", "kid": "of personal accounts", "n": n, "e": e,
         "issuer": "https://login.example/9188040d-6c67-4c5b-b112-36a304b66dad/v2.0"},
    ]});
    let (fetches, jwks) = (Arc::new(AtomicU32::new(0)), Arc::new(Mutex::new(jwks)));
    let (count, served) = (Arc::clone(&fetches), Arc::clone(&jwks));
    let router = axum::Router::new().route(
        "/organizations/discovery/v2.0/keys",
        axum::routing::get(move || {
            count.fetch_add(1, Ordering::Relaxed);
            let body = served.lock().unwrap().to_string();
            async move { body }
        }),
    );
    let clock = Clock::test(NOW);
    let entra = Entra::new(
        Arc::new(RouterTransport(router)),
        Url::parse("https://login.example").unwrap(),
        Url::parse("https://graph.example").unwrap(),
        CLIENT,
        AppCredential::Secret(Secret::new("s")),
        clock.clone(),
    );
    Stage {
        entra: entra.unwrap(),
        clock,
        pair,
        fetches,
        jwks,
    }
}

fn claims() -> Value {
    json!({
        "aud": CLIENT, "iss": format!("https://login.example/{TENANT}/v2.0"), "tid": TENANT, "oid": ACCOUNT,
        "iat": NOW.as_secs(), "nbf": NOW.as_secs(), "exp": NOW.as_secs() + 3600, "nonce": "n0nce",
        "name": "Ann\u{7} Lee", "preferred_username": "ann@contoso.com", "ver": "2.0",
    })
}

impl Stage {
    fn sign(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair
            .sign(
                &RSA_PKCS1_SHA256,
                &SystemRandom::new(),
                message.as_bytes(),
                &mut signature,
            )
            .unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn token(&self, claims: &Value) -> String {
        self.sign(&json!({"typ": "JWT", "alg": "RS256", "kid": "k1"}), claims)
    }

    async fn verify(&self, token: &str) -> Result<SignedIn, IdTokenError> {
        self.entra
            .verify_id_token(token, &Secret::new("n0nce"))
            .await
    }
}

#[tokio::test(start_paused = true)]
async fn a_true_token_says_who_it_is() {
    let stage = stage();
    let person = stage.verify(&stage.token(&claims())).await.unwrap();
    assert_eq!(person.tenant, TenantId(TENANT));
    assert_eq!(person.account, UserId(ACCOUNT));
    assert_eq!(person.name.as_deref(), Some("Ann Lee"));
    assert!(!person.guest && person.roles.is_none());
    assert!(!format!("{person:?}").contains("contoso"));
}

#[tokio::test(start_paused = true)]
async fn guests_are_recognised() {
    let stage = stage();
    for (claim, value) in [
        ("preferred_username", "ann_home.com#EXT#@contoso.com"),
        (
            "idp",
            "https://sts.windows.net/44444444-0000-0000-0000-000000000000/",
        ),
    ] {
        let mut claims = claims();
        claims[claim] = value.into();
        assert!(
            stage.verify(&stage.token(&claims)).await.unwrap().guest,
            "{claim}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn every_forged_token_is_refused() {
    let stage = stage();
    let with = |claim: &str, value: Value| {
        let mut claims = claims();
        claims[claim] = value;
        stage.token(&claims)
    };
    let without = |claim: &str| {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(claim);
        stage.token(&claims)
    };
    let with_header = |header: Value| stage.sign(&header, &claims());
    let good = stage.token(&claims());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let unsigned = {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!(
            "{}.{}.",
            part(&json!({"typ": "JWT", "alg": "none"})),
            part(&claims())
        )
    };
    // The classic: signed with HMAC, with the public key as the secret.
    let confused = {
        let key = stage.pair.public_key().as_der().unwrap();
        let header = jsonwebtoken::Header {
            kid: Some("k1".into()),
            ..jsonwebtoken::Header::new(Algorithm::HS256)
        };
        let key = jsonwebtoken::EncodingKey::from_secret(key.as_ref());
        jsonwebtoken::encode(&header, &claims(), &key).unwrap()
    };
    let now = NOW.as_secs();
    let other = Uuid::from_u128(0x4444).to_string();
    let personal = "9188040d-6c67-4c5b-b112-36a304b66dad";
    let as_personal = {
        let mut claims = claims();
        claims["tid"] = personal.into();
        claims["iss"] = format!("https://login.example/{personal}/v2.0").into();
        stage.token(&claims)
    };
    let rsa = |kid: &str| with_header(json!({"typ": "JWT", "alg": "RS256", "kid": kid}));
    let cases: Vec<(&str, String, &str)> = vec![
        ("nothing", String::new(), "Algorithm"),
        ("no JWT", "a.b".into(), "Algorithm"),
        ("unsigned", unsigned, "Algorithm"),
        ("HMAC with the public key", confused, "Algorithm"),
        (
            "PS256",
            with_header(json!({"typ": "JWT", "alg": "PS256", "kid": "k1"})),
            "Algorithm",
        ),
        (
            "no kid",
            with_header(json!({"typ": "JWT", "alg": "RS256"})),
            "UnknownKey",
        ),
        ("unknown kid", rsa("k9"), "UnknownKey"),
        ("a key for encryption", rsa("for encryption"), "UnknownKey"),
        (
            "a key of another issuer",
            rsa("of personal accounts"),
            "UnknownKey",
        ),
        ("no signature", format!("{message}."), "Signature"),
        (
            "another signature",
            format!("{message}.{}", URL_SAFE_NO_PAD.encode([7; 256])),
            "Signature",
        ),
        (
            "another content",
            format!(
                "{}.{signature}",
                with("oid", other.clone().into())
                    .rsplit_once('.')
                    .unwrap()
                    .0
            ),
            "Signature",
        ),
        (
            "tenant swapped",
            with("tid", other.clone().into()),
            "Issuer",
        ),
        (
            "issuer swapped",
            with("iss", format!("https://login.example/{other}/v2.0").into()),
            "Issuer",
        ),
        (
            "issuer elsewhere",
            with("iss", format!("https://evil.example/{TENANT}/v2.0").into()),
            "Issuer",
        ),
        (
            "issuer with more",
            with(
                "iss",
                format!("https://login.example/{TENANT}/v2.0/").into(),
            ),
            "Issuer",
        ),
        (
            "another application",
            with("aud", other.clone().into()),
            "Audience",
        ),
        (
            "several applications",
            with("aud", json!([CLIENT, other])),
            "Malformed",
        ),
        ("another nonce", with("nonce", "other".into()), "Nonce"),
        ("no nonce", without("nonce"), "Nonce"),
        ("expired", with("exp", (now - 301).into()), "Time"),
        ("not yet valid", with("nbf", (now + 301).into()), "Time"),
        ("from the future", with("iat", (now + 301).into()), "Time"),
        (
            "times beyond all bounds",
            with("exp", i64::MIN.into()),
            "Time",
        ),
        ("no expiry", without("exp"), "Malformed"),
        ("no account", without("oid"), "Malformed"),
        (
            "a tenant that is no id",
            with("tid", "../evil".into()),
            "Malformed",
        ),
        ("a personal account", as_personal, "Personal"),
        (
            "too long",
            with("name", "x".repeat(20 << 10).into()),
            "Malformed",
        ),
    ];
    for (what, token, expected) in cases {
        let refused = stage.verify(&token).await.expect_err(what);
        assert!(
            format!("{refused:?}").starts_with(expected),
            "{what}: {refused:?}"
        );
    }
    stage.verify(&good).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn clocks_may_differ_a_little() {
    let stage = stage();
    for seconds in [-299, 299] {
        let mut claims = claims();
        claims["nbf"] = (NOW.as_secs() + seconds).into();
        claims["exp"] = (NOW.as_secs() + seconds).into();
        stage.verify(&stage.token(&claims)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn keys_are_fetched_once_again_when_unknown_and_survive_an_outage() {
    let stage = stage();
    let token = stage.token(&claims());
    for _ in 0..3 {
        stage.verify(&token).await.unwrap();
    }
    assert_eq!(stage.fetches.load(Ordering::Relaxed), 1);

    // A key nobody knows: asked for, but not at will.
    let unknown = stage.sign(&json!({"alg": "RS256", "kid": "k9"}), &claims());
    stage.clock.jump(Duration::from_secs(31));
    for _ in 0..10 {
        stage.verify(&unknown).await.unwrap_err();
    }
    assert_eq!(stage.fetches.load(Ordering::Relaxed), 2);

    // Rolled over: the new key is found as soon as asking is allowed.
    let (n, e) = numbers(&stage.pair);
    *stage.jwks.lock().unwrap() = json!({"keys": [{"kty": "RSA", "kid": "k9", "n": n, "e": e}]});
    stage.clock.jump(Duration::from_secs(31));
    stage.verify(&unknown).await.unwrap();

    // Nothing usable can be fetched: what is known goes on for a day, not longer.
    *stage.jwks.lock().unwrap() = json!({"keys": []});
    let later = |hours: i64| {
        let mut claims = claims();
        for claim in ["iat", "nbf", "exp"] {
            claims[claim] = (NOW.as_secs() + hours * 3600).into();
        }
        stage.sign(&json!({"alg": "RS256", "kid": "k9"}), &claims)
    };
    stage.clock.jump(Duration::from_hours(13));
    stage.verify(&later(13)).await.unwrap();
    stage.clock.jump(Duration::from_hours(12));
    assert!(matches!(
        stage.verify(&later(25)).await,
        Err(IdTokenError::Keys(_))
    ));
}
