//! An issuer that means harm, or is broken: nobody gets in by it, nothing of it is logged, and it is not asked without measure.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use axum::Router;
use axum::body::Body;
use axum::extract::{Form, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use url::Url;

use crate::support::issuer::stage_at;
use crate::support::stage::Stage;
use crate::support::visitor::{Page, Visitor};

type Change = Box<dyn Fn(&mut Value) + Send + Sync>;

/// How the issuer misbehaves. Without any of it, it is a good one.
#[derive(Default)]
struct Ways {
    document: Option<Change>,
    head: Option<Change>,
    claims: Option<Change>,
    /// Instead of a signature by the published key.
    sign: Option<fn(&Liar, &str) -> String>,
    /// Instead of the answer with tokens, with keys.
    token: Option<fn() -> Response>,
    keys: Option<fn() -> Response>,
}

struct Liar {
    origin: String,
    pair: KeyPair,
    other: KeyPair,
    nonce: Mutex<String>,
    ways: Mutex<Ways>,
    now: i64,
    discovered: AtomicUsize,
    keys_asked: AtomicUsize,
    tokens_asked: AtomicUsize,
}

fn rsa(pair: &KeyPair, message: &str) -> String {
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(
        &RSA_PKCS1_SHA256,
        &SystemRandom::new(),
        message.as_bytes(),
        &mut signature,
    )
    .unwrap();
    B64.encode(signature)
}

fn jwk(pair: &KeyPair, kid: &str) -> Value {
    let public = pair.public_key();
    let n = B64.encode(public.modulus().big_endian_without_leading_zero());
    let e = B64.encode(public.exponent().big_endian_without_leading_zero());
    json!({"kty": "RSA", "use": "sig", "kid": kid, "n": n, "e": e})
}

impl Liar {
    fn token(&self) -> String {
        let ways = self.ways.lock().unwrap();
        let mut head = json!({"alg": "RS256", "kid": "k1", "typ": "JWT"});
        let mut claims = json!({
            "iss": self.origin, "aud": "presence", "sub": "s-1", "nonce": *self.nonce.lock().unwrap(),
            "iat": self.now, "exp": self.now + 300, "groups": ["presence-operators"], "preferred_username": "mallory",
        });
        if let Some(change) = &ways.head {
            change(&mut head);
        }
        if let Some(change) = &ways.claims {
            change(&mut claims);
        }
        let message = format!(
            "{}.{}",
            B64.encode(head.to_string()),
            B64.encode(claims.to_string())
        );
        let signature = match ways.sign {
            Some(sign) => sign(self, &message),
            None => rsa(&self.pair, &message),
        };
        format!("{message}.{signature}")
    }
}

async fn document(State(liar): State<Arc<Liar>>) -> String {
    liar.discovered.fetch_add(1, Ordering::Relaxed);
    let at = |path: &str| format!("{}{path}", liar.origin);
    let mut document = json!({
        "issuer": liar.origin, "authorization_endpoint": at("/authorize"), "token_endpoint": at("/token"),
        "jwks_uri": at("/keys"), "authorization_response_iss_parameter_supported": true,
    });
    if let Some(change) = &liar.ways.lock().unwrap().document {
        change(&mut document);
    }
    document.to_string()
}

async fn keys(State(liar): State<Arc<Liar>>) -> Response {
    liar.keys_asked.fetch_add(1, Ordering::Relaxed);
    match liar.ways.lock().unwrap().keys {
        Some(answer) => answer(),
        None => json!({"keys": [jwk(&liar.pair, "k1"), jwk(&liar.other, "k2")]})
            .to_string()
            .into_response(),
    }
}

async fn token(State(liar): State<Arc<Liar>>, Form(form): Form<Vec<(String, String)>>) -> Response {
    liar.tokens_asked.fetch_add(1, Ordering::Relaxed);
    let sent = |name: &str| form.iter().any(|(n, v)| n == name && !v.is_empty());
    assert!(sent("code") && sent("code_verifier") && sent("redirect_uri"));
    if let Some(answer) = liar.ways.lock().unwrap().token {
        return answer();
    }
    let answer = json!({"access_token": "at", "token_type": "Bearer", "id_token": liar.token()});
    ([("content-type", "application/json")], answer.to_string()).into_response()
}

/// The issuer, and a stage whose operators sign in there.
async fn at_the_liars(ways: Ways) -> (Arc<Liar>, Stage, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let stage = stage_at(&origin).await;
    let liar = Arc::new(Liar {
        origin,
        pair: KeyPair::generate(KeySize::Rsa2048).unwrap(),
        other: KeyPair::generate(KeySize::Rsa2048).unwrap(),
        nonce: Mutex::default(),
        ways: Mutex::new(ways),
        now: stage.cloud().unwrap().operations().now().as_secs(),
        discovered: AtomicUsize::new(0),
        keys_asked: AtomicUsize::new(0),
        tokens_asked: AtomicUsize::new(0),
    });
    let router = Router::new()
        .route("/.well-known/openid-configuration", get(document))
        .route("/keys", get(keys))
        .route("/token", post(token))
        .with_state(Arc::clone(&liar));
    let serve = async move { axum::serve(listener, router).await.unwrap() };
    let mut serving = JoinSet::new();
    serving.spawn(serve);
    (liar, stage, serving)
}

/// Begins a sign-in: what would come back from it.
async fn begun(liar: &Liar, visitor: &Visitor) -> Vec<(String, String)> {
    let sent = visitor.get("/sign-in/issuer").await;
    assert_eq!(sent.status, 303, "{}", sent.body);
    let url = Url::parse(&sent.location()).unwrap();
    let said = |name: &str| {
        url.query_pairs()
            .find(|(n, _)| n == name)
            .unwrap()
            .1
            .into_owned()
    };
    assert_eq!(
        (
            said("code_challenge_method").as_str(),
            said("code_challenge").len()
        ),
        ("S256", 43)
    );
    *liar.nonce.lock().unwrap() = said("nonce");
    vec![
        ("state".into(), said("state")),
        ("code".into(), "the-code-of-mallory".into()),
        ("iss".into(), liar.origin.clone()),
    ]
}

async fn back(visitor: &Visitor, brought: &[(String, String)]) -> Page {
    let query = serde_urlencoded::to_string(brought).unwrap();
    visitor.get(&format!("/sign-in/callback?{query}")).await
}

async fn once(liar: &Liar, stage: &Stage) -> Page {
    let visitor = Visitor::at(stage.operators_url());
    let brought = begun(liar, &visitor).await;
    let page = back(&visitor, &brought).await;
    if page.status != 303 {
        assert_eq!(
            visitor.get("/").await.location(),
            "/sign-in",
            "and is not signed in"
        );
    }
    page
}

fn set(name: &'static str, value: Value) -> Change {
    Box::new(move |all| all[name] = value.clone())
}

fn document_with(name: &'static str, value: Value) -> Ways {
    Ways {
        document: Some(set(name, value)),
        ..Ways::default()
    }
}

fn head_with(name: &'static str, value: Value) -> Ways {
    Ways {
        head: Some(set(name, value)),
        ..Ways::default()
    }
}

fn claim_with(name: &'static str, value: Value) -> Ways {
    Ways {
        claims: Some(set(name, value)),
        ..Ways::default()
    }
}

fn token_answer(answer: fn() -> Response) -> Ways {
    Ways {
        token: Some(answer),
        ..Ways::default()
    }
}

fn keys_answer(answer: fn() -> Response) -> Ways {
    Ways {
        keys: Some(answer),
        ..Ways::default()
    }
}

/// A way to lie, at this time.
type Case = (&'static str, fn(i64) -> Ways);

const HOUR: i64 = 3600;

/// HMAC with the public key as the secret, as careless verifiers take it.
fn hs256(liar: &Liar, message: &str) -> String {
    let public = liar.pair.public_key();
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, public.as_ref());
    B64.encode(aws_lc_rs::hmac::sign(&key, message.as_bytes()))
}

fn refusal() -> Response {
    let error = json!({"error": "invalid_grant", "error_description": "secret-words"});
    (http::StatusCode::BAD_REQUEST, error.to_string()).into_response()
}

const FORGED: &[Case] = &[
    ("another nonce", |_| claim_with("nonce", json!("another"))),
    ("no nonce", |_| claim_with("nonce", Value::Null)),
    ("alg none", |_| Ways {
        sign: Some(|_, _| String::new()),
        ..head_with("alg", json!("none"))
    }),
    ("HS256 with the public key", |_| Ways {
        sign: Some(hs256),
        ..head_with("alg", json!("HS256"))
    }),
    ("another application", |_| claim_with("aud", json!("them"))),
    ("for several", |_| {
        claim_with("aud", json!(["presence", "them"]))
    }),
    ("given to another", |_| claim_with("azp", json!("them"))),
    ("another issuer", |_| {
        claim_with("iss", json!("https://evil.example"))
    }),
    ("expired", |now| claim_with("exp", json!(now - HOUR))),
    ("issued long ago", |now| {
        claim_with("iat", json!(now - HOUR))
    }),
    ("issued tomorrow", |now| {
        claim_with("iat", json!(now + 24 * HOUR))
    }),
    ("signed by another key", |_| Ways {
        sign: Some(|liar, message| rsa(&liar.other, message)),
        ..Ways::default()
    }),
    ("a key that is not published", |_| {
        head_with("kid", json!("k3"))
    }),
    ("a key brought along", |_| Ways {
        head: Some(Box::new(|head| {
            head["kid"] = json!("k3");
            head["jku"] = json!("http://127.0.0.1/keys");
        })),
        ..Ways::default()
    }),
    ("no token", |_| {
        token_answer(|| {
            json!({"access_token": "at", "token_type": "Bearer"})
                .to_string()
                .into_response()
        })
    }),
    ("no JSON", |_| token_answer(|| "hello".into_response())),
    ("a refusal", |_| token_answer(refusal)),
    ("a redirect", |_| {
        token_answer(|| axum::response::Redirect::temporary("http://127.0.0.1:1/").into_response())
    }),
];

#[tokio::test]
async fn a_good_issuer_is_believed() {
    let (liar, stage, _serving) = at_the_liars(Ways::default()).await;
    let page = once(&liar, &stage).await;
    assert_eq!(
        (page.status, page.location().as_str()),
        (303, "/"),
        "{}",
        page.body
    );
}

#[tokio::test]
async fn tokens_that_prove_nothing_let_nobody_in() {
    let (liar, stage, _serving) = at_the_liars(Ways::default()).await;
    let mut waits = 0;
    for (what, ways) in FORGED {
        *liar.ways.lock().unwrap() = ways(liar.now);
        let asked = liar.tokens_asked.load(Ordering::Relaxed);
        let page = once(&liar, &stage).await;
        if page.status == 429 {
            // Whoever comes back with nothing good again and again waits; the issuer is not asked for him.
            assert_eq!(liar.tokens_asked.load(Ordering::Relaxed), asked);
            waits += 1;
            let (liar, stage, _serving) = at_the_liars(ways(liar.now)).await;
            refused(what, &once(&liar, &stage).await);
        } else {
            refused(what, &page);
        }
    }
    assert!(waits > 0, "at some time whoever tries on has to wait");
}

fn refused(what: &str, page: &Page) {
    assert_eq!(page.status, 403, "{what}: {}", page.body);
    assert!(
        page.body.contains("was not accepted"),
        "{what}: {}",
        page.body
    );
    assert!(!page.body.contains("secret-words"), "{what}");
}

#[tokio::test]
async fn keys_that_nobody_publishes_are_not_asked_for_again_and_again() {
    let (liar, stage, _serving) = at_the_liars(head_with("kid", json!("k9"))).await;
    for _ in 0..3 {
        assert_eq!(once(&liar, &stage).await.status, 403);
    }
    assert_eq!(liar.tokens_asked.load(Ordering::Relaxed), 3);
    assert_eq!(liar.keys_asked.load(Ordering::Relaxed), 1);
    assert_eq!(liar.discovered.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn answers_without_end_are_cut_off() {
    fn endless() -> Response {
        let chunk = bytes::Bytes::from(vec![b'x'; 16 << 10]);
        let chunks =
            futures_util::stream::repeat_with(move || Ok::<_, std::io::Error>(chunk.clone()));
        Body::from_stream(chunks).into_response()
    }
    let cases: [Case; 4] = [
        ("an endless answer with tokens", |_| token_answer(endless)),
        ("endless keys", |_| keys_answer(endless)),
        ("keys elsewhere", |_| {
            keys_answer(|| axum::response::Redirect::temporary("/more-keys").into_response())
        }),
        ("no keys", |_| {
            keys_answer(|| "{\"keys\": []}".into_response())
        }),
    ];
    for (what, ways) in cases {
        let (liar, stage, _serving) = at_the_liars(ways(0)).await;
        let page = once(&liar, &stage).await;
        assert_eq!(page.status, 503, "{what}: {}", page.body);
        assert!(page.body.contains("cannot be used just now"), "{what}");
    }
}

#[tokio::test]
async fn an_issuer_that_says_nothing_is_waited_for_only_so_long() {
    fn silent() -> Response {
        Body::from_stream(futures_util::stream::pending::<
            Result<bytes::Bytes, std::io::Error>,
        >())
        .into_response()
    }
    let (liar, stage, _serving) = at_the_liars(token_answer(silent)).await;
    assert_eq!(once(&liar, &stage).await.status, 503);
}

#[tokio::test]
async fn a_description_that_does_not_fit_is_not_used() {
    let elsewhere = json!("http://192.0.2.1/token");
    for (what, ways) in [
        (
            "another issuer",
            document_with("issuer", json!("https://evil.example")),
        ),
        (
            "an address without TLS",
            document_with("token_endpoint", elsewhere),
        ),
        (
            "a script",
            document_with("authorization_endpoint", json!("javascript:alert(1)")),
        ),
        (
            "no PKCE",
            document_with("code_challenge_methods_supported", json!(["plain"])),
        ),
    ] {
        let (liar, stage, _serving) = at_the_liars(ways).await;
        let visitor = Visitor::at(stage.operators_url());
        for _ in 0..3 {
            let page = visitor.get("/sign-in/issuer").await;
            assert_eq!(page.status, 503, "{what}");
        }
        assert_eq!(
            liar.discovered.load(Ordering::Relaxed),
            1,
            "{what}: left alone for a while"
        );
    }
}

#[tokio::test]
async fn what_comes_back_must_fit_what_was_begun() {
    type Brought = Vec<(String, String)>;
    type Case = (&'static str, &'static str, fn(&mut Brought));
    let cases: [Case; 6] = [
        ("no state", "is over", |b| b.retain(|(n, _)| n != "state")),
        ("another state", "is over", |b| b[0].1 = "x".repeat(43)),
        ("two states", "is over", |b| {
            b.push(("state".into(), "x".into()));
        }),
        ("sent by another issuer", "was not accepted", |b| {
            b[2].1 = "https://evil.example".into();
        }),
        ("sent by nobody", "was not accepted", |b| {
            b.retain(|(n, _)| n != "iss");
        }),
        ("no code", "was not accepted", |b| {
            b.retain(|(n, _)| n != "code");
        }),
    ];
    for (what, says, change) in cases {
        let (liar, stage, _serving) = at_the_liars(Ways::default()).await;
        let visitor = Visitor::at(stage.operators_url());
        let mut brought = begun(&liar, &visitor).await;
        change(&mut brought);
        let page = back(&visitor, &brought).await;
        assert_eq!(page.status, 403, "{what}");
        assert!(page.body.contains(says), "{what}: {}", page.body);
        assert_eq!(
            liar.tokens_asked.load(Ordering::Relaxed),
            0,
            "{what}: the code stays with us"
        );
        assert!(
            !visitor.cookies().contains_key("operator-oidc"),
            "{what}: and is over"
        );
    }
}

#[tokio::test]
async fn what_the_issuer_says_to_people_is_text() {
    let (liar, stage, _serving) = at_the_liars(Ways::default()).await;
    let visitor = Visitor::at(stage.operators_url());
    let mut brought = begun(&liar, &visitor).await;
    brought[1] = ("error".into(), "access_denied".into());
    brought.push((
        "error_description".into(),
        "<script>alert(1)</script> You said no.".into(),
    ));
    let page = back(&visitor, &brought).await;
    assert_eq!(page.status, 403);
    assert!(
        page.body.contains("access_denied") && page.body.contains("You said no."),
        "{}",
        page.body
    );
    assert!(!page.body.contains("<script>alert"));

    // Of a link that somebody was made to click nothing is shown.
    let link = "/sign-in/callback?error=call_us&error_description=Call+0900&state=x";
    let page = Visitor::at(stage.operators_url()).get(link).await;
    assert!(page.status == 403 && !page.body.contains("0900") && !page.body.contains("call_us"));
}

#[tokio::test]
async fn the_cookie_of_a_sign_in_cannot_be_made_younger() {
    let (liar, stage, _serving) = at_the_liars(Ways::default()).await;
    let visitor = Visitor::at(stage.operators_url());
    let brought = begun(&liar, &visitor).await;
    let mut cookies = visitor.cookies();
    let cookie = cookies["operator-oidc"].clone();
    let mut parts: Vec<&str> = cookie.split('.').collect();
    let later = (parts[1].parse::<i64>().unwrap() + 60_000).to_string();
    parts[1] = &later;
    cookies.insert("operator-oidc".into(), parts.join("."));
    visitor.set_cookies(cookies);
    let page = back(&visitor, &brought).await;
    assert!(
        page.status == 403 && page.body.contains("is over"),
        "{}",
        page.body
    );
}
