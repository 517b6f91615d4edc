//! The simulated Entra behaves as documented.

use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::Request;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use presence_bridge::secret::sha256;
use presence_bridge::simulator::AppRegistration;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::simulator_support::{APP_GRANT, BACK, CLIENT, Reply, SECRET, Sim, ids};

pub fn codes(reply: &Reply) -> Value {
    reply.json()["error_codes"].clone()
}

#[tokio::test]
async fn discovery_names_the_tenant_by_id_and_by_domain() {
    let sim = Sim::new();
    let id = sim.contoso.id().to_string();
    for name in [id.as_str(), "contoso.example"] {
        let path = format!("/{name}/v2.0/.well-known/openid-configuration");
        let body = sim.get(&path, "").await.json();
        assert_eq!(body["issuer"], format!("http://sim.example/{id}/v2.0"));
        assert_eq!(
            body["token_endpoint"],
            format!("http://sim.example/{id}/oauth2/v2.0/token")
        );
        assert_eq!(body["msgraph_host"], "sim.example");
    }
    let any = sim
        .get("/organizations/v2.0/.well-known/openid-configuration", "")
        .await;
    assert_eq!(any.json()["issuer"], "http://sim.example/{tenantid}/v2.0");
    let unknown = sim
        .get("/nobody.example/v2.0/.well-known/openid-configuration", "")
        .await;
    assert_eq!(
        (unknown.status, &unknown.json()["error"]),
        (400, &json!("invalid_tenant"))
    );
    assert_eq!(codes(&unknown), json!([90_002]));
}

#[tokio::test]
async fn an_application_proves_itself_by_secret() {
    let sim = Sim::new();
    let tenant = sim.contoso.id().to_string();
    let path = format!("/{tenant}/oauth2/v2.0/token");
    let reply = sim.ask_token(&tenant, &APP_GRANT).await;
    let body = reply.json();
    let life = body["expires_in"].as_u64().unwrap();
    assert!((3_600..=5_400).contains(&life));
    assert!(body.get("refresh_token").is_none());
    assert!(reply.header("cache-control").contains("no-store"));

    let encoded =
        |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let basic = STANDARD.encode(format!("{CLIENT}:{}", encoded(SECRET)));
    let form = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(APP_GRANT)
        .finish();
    let request = Request::post(&path)
        .header("authorization", format!("Basic {basic}"))
        .header("content-type", "application/x-www-form-urlencoded");
    assert_eq!(
        sim.send(request.body(form.into()).unwrap()).await.status,
        200
    );

    let client = CLIENT.to_string();
    let with = |secret: &'static str| {
        let mut fields = vec![("client_id", client.as_str())];
        fields.extend(APP_GRANT);
        if !secret.is_empty() {
            fields.push(("client_secret", secret));
        }
        fields
    };
    let wrong = sim.form(&path, &with("wrong")).await;
    assert_eq!((wrong.status, codes(&wrong)), (401, json!([7_000_215])));
    assert_eq!(wrong.json()["error"], "invalid_client");
    assert_eq!(codes(&sim.form(&path, &with("")).await), json!([7_000_218]));
    sim.microsoft.expire_secret(CLIENT, SECRET);
    assert_eq!(
        codes(&sim.form(&path, &with(SECRET)).await),
        json!([7_000_222])
    );
}

struct Certificate {
    pem: String,
    der: Vec<u8>,
    key: KeyPair,
}

fn certificate() -> Certificate {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let key = KeyPair::from_pkcs8(&pair.serialize_der()).unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["bridge.example".into()])
        .unwrap()
        .self_signed(&pair)
        .unwrap();
    Certificate {
        pem: certificate.pem(),
        der: certificate.der().to_vec(),
        key,
    }
}

impl Certificate {
    fn sign(&self, legacy: bool, claims: &Value) -> String {
        let sha1 =
            aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, &self.der);
        let header = if legacy {
            json!({ "alg": "RS256", "typ": "JWT", "x5t": URL_SAFE_NO_PAD.encode(sha1) })
        } else {
            json!({ "alg": "PS256", "typ": "JWT", "x5t#S256": URL_SAFE_NO_PAD.encode(sha256(&self.der)) })
        };
        let encode = |v: &Value| URL_SAFE_NO_PAD.encode(v.to_string());
        let message = format!("{}.{}", encode(&header), encode(claims));
        let mut signature = vec![0; self.key.public_modulus_len()];
        let scheme: &'static dyn RsaEncoding = if legacy {
            &RSA_PKCS1_SHA256
        } else {
            &RSA_PSS_SHA256
        };
        self.key
            .sign(
                scheme,
                &SystemRandom::new(),
                message.as_bytes(),
                &mut signature,
            )
            .unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

#[tokio::test]
async fn an_application_proves_itself_by_a_signed_assertion() {
    let sim = Sim::new();
    let (ours, theirs) = (certificate(), certificate());
    sim.microsoft.register_app(AppRegistration {
        client_id: CLIENT,
        certificates_pem: vec![ours.pem.clone()],
        ..AppRegistration::default()
    });
    let tenant = sim.contoso.id().to_string();
    let now = sim.clock.now().as_secs();
    let claims = |jti: &str| {
        json!({
            "aud": format!("http://sim.example/{tenant}/oauth2/v2.0/token"), "iss": CLIENT, "sub": CLIENT,
            "jti": jti, "nbf": now, "iat": now, "exp": now + 600,
        })
    };
    let changed = |jti: &str, name: &str, value: Value| {
        let mut claims = claims(jti);
        claims[name] = value;
        claims
    };
    let path = format!("/{tenant}/oauth2/v2.0/token");
    let ask = async |assertion: String| {
        let mut fields = vec![
            ("client_assertion", assertion.as_str()),
            (
                "client_assertion_type",
                "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            ),
        ];
        fields.extend(APP_GRANT);
        let reply = sim.form(&path, &fields).await;
        match reply.status {
            200 => 0,
            _ => codes(&reply)[0].as_u64().unwrap(),
        }
    };
    assert_eq!(ask(ours.sign(false, &claims("a"))).await, 0);
    assert_eq!(
        ask(ours.sign(false, &claims("a"))).await,
        50_013,
        "used twice"
    );
    assert_eq!(ask(ours.sign(true, &claims("b"))).await, 0);
    sim.microsoft.set_switches(|s| s.legacy_assertions = false);
    assert_eq!(ask(ours.sign(true, &claims("c"))).await, 50_027);
    assert_eq!(ask(theirs.sign(false, &claims("d"))).await, 700_027);
    let mut forged = ours.sign(false, &claims("e"));
    forged.replace_range(forged.len() - 20..forged.len() - 10, "AAAAAAAAAA");
    assert_eq!(ask(forged).await, 700_027);
    let late = changed("f", "exp", json!(now - 301));
    assert_eq!(ask(ours.sign(false, &late)).await, 700_024);
    let far = changed("g", "exp", json!(now + 3_600));
    assert_eq!(ask(ours.sign(false, &far)).await, 700_024);
    let elsewhere = changed(
        "h",
        "aud",
        json!("http://sim.example/common/oauth2/v2.0/token"),
    );
    assert_eq!(ask(ours.sign(false, &elsewhere)).await, 50_027);
}

#[tokio::test]
async fn only_a_tenant_that_consented_gives_application_tokens() {
    let sim = Sim::new();
    sim.fabrikam.withdraw_consent(CLIENT);
    let reply = sim
        .ask_token(&sim.fabrikam.id().to_string(), &APP_GRANT)
        .await;
    assert_eq!(
        (codes(&reply), &reply.json()["error"]),
        (json!([700_016]), &json!("unauthorized_client"))
    );
    let reply = sim.ask_token("organizations", &APP_GRANT).await;
    assert_eq!(codes(&reply), json!([9_001_023]));
}

#[tokio::test]
async fn refresh_tokens_rotate_and_can_be_revoked() {
    let sim = Sim::new();
    let person = sim.contoso.people().remove(0);
    let tenant = sim.contoso.id().to_string();
    let first = sim.contoso.mint_refresh_token(CLIENT, &person.upn);
    let refresh = async |authority: &str, token: &str| {
        sim.ask_token(
            authority,
            &[("grant_type", "refresh_token"), ("refresh_token", token)],
        )
        .await
    };
    let reply = refresh(&tenant, &first).await.json();
    let second = reply["refresh_token"].as_str().unwrap().to_owned();
    assert_ne!(first, second);
    assert!(
        reply["scope"]
            .as_str()
            .unwrap()
            .contains("https://graph.microsoft.com/Presence.Read.All")
    );
    let access = reply["access_token"].as_str().unwrap();
    assert_eq!(
        sim.presences(access, &ids(&sim.contoso, 1)).await.status,
        200
    );

    assert_eq!(
        refresh(&tenant, &first).await.status,
        200,
        "the old one stays valid"
    );
    sim.microsoft.set_switches(|s| s.refresh_revokes_old = true);
    assert_eq!(refresh(&tenant, &first).await.status, 200);
    assert_eq!(codes(&refresh(&tenant, &first).await), json!([50_173]));

    let foreign = sim.fabrikam.id().to_string();
    assert_eq!(codes(&refresh(&foreign, &second).await), json!([70_000]));
    sim.contoso.disable_person(&person.upn);
    assert_eq!(codes(&refresh(&tenant, &second).await), json!([50_057]));
    sim.contoso.enable_person(&person.upn);
    sim.contoso.withdraw_consent(CLIENT);
    assert_eq!(codes(&refresh(&tenant, &second).await), json!([65_001]));
    let third = sim.contoso.mint_refresh_token(CLIENT, &person.upn);
    sim.contoso.revoke_sessions(&person.upn);
    assert_eq!(codes(&refresh(&tenant, &third).await), json!([50_173]));
    let fourth = sim.contoso.mint_refresh_token(CLIENT, &person.upn);
    sim.clock.jump(Duration::from_hours(90 * 24));
    assert_eq!(codes(&refresh(&tenant, &fourth).await), json!([700_082]));
}

/// From the appendix of RFC 7636.
pub const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

/// Accepts on the sign-in page and returns the parameters that come back.
pub async fn sign_in(sim: &Sim, changed: &[(&str, &str)]) -> (Reply, Vec<(String, String)>) {
    let client = CLIENT.to_string();
    let upn = sim.contoso.people().remove(0).upn;
    let mut fields = vec![
        ("client_id", client.as_str()),
        ("response_type", "code"),
        ("redirect_uri", BACK),
        (
            "scope",
            "openid profile offline_access https://graph.microsoft.com/Presence.Read.All",
        ),
        ("state", "st&te"),
        ("nonce", "once"),
        ("code_challenge", CHALLENGE),
        ("code_challenge_method", "S256"),
        ("account", upn.as_str()),
        ("sim_decision", "accept"),
    ];
    for (name, value) in changed {
        fields.retain(|(n, _)| n != name);
        fields.push((name, value));
    }
    let reply = sim
        .form("/organizations/oauth2/v2.0/authorize", &fields)
        .await;
    let back = url::Url::parse(reply.header("location"));
    let pairs = back
        .map(|u| u.query_pairs().into_owned().collect())
        .unwrap_or_default();
    (reply, pairs)
}

pub fn get(pairs: &[(String, String)], name: &str) -> String {
    let found = pairs.iter().find(|(n, _)| n == name);
    found.map(|(_, v)| v.clone()).unwrap_or_default()
}

pub async fn redeem(sim: &Sim, authority: &str, code: &str, verifier: &str) -> Reply {
    let fields = [
        ("grant_type", "authorization_code"),
        ("code", code),
        ("redirect_uri", BACK),
        ("code_verifier", verifier),
    ];
    sim.ask_token(authority, &fields).await
}

#[tokio::test]
async fn somebody_signs_in_with_pkce_and_the_id_token_verifies() {
    let sim = Sim::new();
    let (_, back) = sign_in(&sim, &[]).await;
    assert_eq!(get(&back, "state"), "st&te");
    let code = get(&back, "code");
    let wrong = redeem(&sim, "organizations", &code, &"x".repeat(43)).await;
    assert_eq!(codes(&wrong), json!([501_481]));
    let elsewhere = redeem(&sim, &sim.fabrikam.id().to_string(), &code, VERIFIER).await;
    assert_eq!(codes(&elsewhere), json!([700_005]));
    let reply = redeem(&sim, "organizations", &code, VERIFIER).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let again = redeem(&sim, "organizations", &code, VERIFIER).await;
    assert_eq!(codes(&again), json!([54_005]));

    let body = reply.json();
    assert!(body["refresh_token"].is_string());
    let token = body["id_token"].as_str().unwrap();
    let claims = verify(&sim, token).await.unwrap();
    let person = sim.contoso.people().remove(0);
    assert_eq!(claims["nonce"], "once");
    assert_eq!(claims["tid"], sim.contoso.id().to_string());
    assert_eq!(claims["oid"], person.id.to_string());
    assert_eq!(claims["preferred_username"], person.upn);

    sim.microsoft.rotate_signing_keys();
    assert!(
        verify(&sim, token).await.is_some(),
        "the old key stays published"
    );
    sim.microsoft.rotate_signing_keys();
    sim.microsoft.rotate_signing_keys();
    assert!(verify(&sim, token).await.is_none(), "the old key is gone");
}

/// Verifies against the published keys, and returns the claims.
async fn verify(sim: &Sim, token: &str) -> Option<Value> {
    let path = format!("/{}/discovery/v2.0/keys", sim.contoso.id());
    let jwks = sim.get(&path, "").await.json();
    let keys = jwks["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 2);
    let kid = decode_header(token).unwrap().kid.unwrap();
    let key = keys.iter().find(|k| k["kid"] == kid.as_str())?;
    let issuer = format!("http://sim.example/{}/v2.0", sim.contoso.id());
    assert_eq!(key["issuer"], issuer);
    let decoding =
        DecodingKey::from_rsa_components(key["n"].as_str()?, key["e"].as_str()?).unwrap();
    let mut rules = Validation::new(Algorithm::RS256);
    rules.set_audience(&[CLIENT.to_string()]);
    rules.set_issuer(&[issuer]);
    // The simulator's clock stands elsewhere than that of the machine.
    rules.validate_exp = false;
    Some(decode::<Value>(token, &decoding, &rules).unwrap().claims)
}

#[tokio::test]
async fn a_code_lives_ten_minutes() {
    let sim = Sim::new();
    let (_, back) = sign_in(&sim, &[]).await;
    sim.clock.jump(Duration::from_mins(10));
    let late = redeem(&sim, "organizations", &get(&back, "code"), VERIFIER).await;
    assert_eq!(codes(&late), json!([70_008]));
}

#[tokio::test]
async fn sign_in_can_fail_in_all_the_documented_ways() {
    let sim = Sim::new();
    let (_, back) = sign_in(&sim, &[("sim_decision", "cancel")]).await;
    assert_eq!(get(&back, "error"), "access_denied");
    assert!(get(&back, "error_description").starts_with("AADSTS65004: "));
    assert_eq!(get(&back, "state"), "st&te");
    let (_, back) = sign_in(&sim, &[("prompt", "none")]).await;
    assert_eq!(get(&back, "error"), "interaction_required");
    let other = format!("{BACK}/");
    let (page, back) = sign_in(&sim, &[("redirect_uri", &other)]).await;
    assert!(back.is_empty(), "a wrong address is never followed");
    assert!(page.text.contains("AADSTS50011"));
    let (page, _) = sign_in(&sim, &[("account", "<script>@x")]).await;
    assert!(page.text.contains("AADSTS50034") && !page.text.contains("<script>@x"));
    let (page, _) = sign_in(&sim, &[("response_mode", "form_post")]).await;
    assert!(
        page.text.contains(&format!("action=\"{BACK}\"")) && page.text.contains("name=\"code\"")
    );
    sim.contoso.withdraw_consent(CLIENT);
    sim.contoso.allow_user_consent(false);
    let (page, _) = sign_in(&sim, &[]).await;
    assert!(page.text.contains("Need admin approval"));
}

#[tokio::test]
async fn an_administrator_consents_for_all() {
    let sim = Sim::new();
    sim.contoso.withdraw_consent(CLIENT);
    let client = CLIENT.to_string();
    let path = format!("/{}/v2.0/adminconsent", sim.contoso.id());
    let fields = |decision| {
        [
            ("client_id", client.as_str()),
            ("redirect_uri", BACK),
            ("state", "s"),
            ("scope", "https://graph.microsoft.com/.default"),
            ("sim_decision", decision),
        ]
    };
    let query = |reply: &Reply| -> Vec<(String, String)> {
        url::Url::parse(reply.header("location"))
            .unwrap()
            .query_pairs()
            .into_owned()
            .collect()
    };
    let back = query(&sim.form(&path, &fields("cancel")).await);
    assert_eq!(get(&back, "error"), "consent_required");
    let tenant = sim.contoso.id().to_string();
    assert_ne!(sim.ask_token(&tenant, &APP_GRANT).await.status, 200);
    let back = query(&sim.form(&path, &fields("accept")).await);
    assert_eq!(
        (get(&back, "admin_consent"), get(&back, "tenant")),
        ("True".into(), tenant)
    );
    let token = sim.app_token(&sim.contoso).await;
    assert_eq!(
        sim.presences(&token, &ids(&sim.contoso, 1)).await.status,
        200
    );
}

#[tokio::test]
async fn the_sign_in_page_needs_no_script() {
    let sim = Sim::new();
    let path = format!(
        "/contoso.example/oauth2/v2.0/authorize?client_id={CLIENT}&response_type=code&redirect_uri={}&scope=openid&state=%22%3E",
        url::form_urlencoded::byte_serialize(BACK.as_bytes()).collect::<String>()
    );
    let page = sim.get(&path, "").await;
    assert_eq!(page.status, 200);
    assert!(
        page.text.contains("<form method=\"post\"") && page.text.contains("value=\"&quot;&gt;\"")
    );
    assert!(!page.text.contains("<script"));
}

#[tokio::test]
async fn asking_in_a_loop_is_noticed() {
    let sim = Sim::new();
    sim.microsoft.set_switches(|s| s.loop_detection = Some(2));
    let tenant = sim.contoso.id().to_string();
    for _ in 0..2 {
        assert_eq!(sim.ask_token(&tenant, &APP_GRANT).await.status, 200);
    }
    assert_eq!(
        codes(&sim.ask_token(&tenant, &APP_GRANT).await),
        json!([50_196])
    );
    sim.clock.jump(Duration::from_mins(5));
    assert_eq!(sim.ask_token(&tenant, &APP_GRANT).await.status, 200);
}

#[tokio::test]
async fn an_unknown_application_is_refused() {
    let sim = Sim::new();
    let other = Uuid::new_v4().to_string();
    let path = format!("/{}/oauth2/v2.0/token", sim.contoso.id());
    let mut fields = vec![("client_id", other.as_str()), ("client_secret", SECRET)];
    fields.extend(APP_GRANT);
    assert_eq!(codes(&sim.form(&path, &fields).await), json!([700_016]));
}

#[tokio::test]
async fn signing_in_alone_needs_no_permission() {
    let sim = Sim::new();
    sim.contoso.withdraw_consent(CLIENT);
    let (_, back) = sign_in(&sim, &[("scope", "openid profile")]).await;
    let reply = redeem(&sim, "organizations", &get(&back, "code"), VERIFIER).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let body = reply.json();
    assert!(body["id_token"].is_string() && body.get("refresh_token").is_none());
    let token = body["access_token"].as_str().unwrap();
    assert_eq!(
        sim.presences(token, &ids(&sim.contoso, 1)).await.status,
        403
    );
}
