//! What happens to accounts and organisations in the simulated Microsoft, and what its pages then say.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Request;
use presence_bridge::simulator::{
    Endpoint, Fault, IdTokenFlaw, NationalCloud, NationalDiscovery, PersonalAccounts, Scope,
};
use serde_json::{Value, json};

use crate::simulator_entra::{VERIFIER, codes, get, redeem, sign_in};
use crate::simulator_support::{ALL, APP_GRANT, BACK, CLIENT, Reply, Sim, ids};

async fn refresh(sim: &Sim, token: &str) -> Reply {
    let fields = [("grant_type", "refresh_token"), ("refresh_token", token)];
    sim.ask_token(&sim.contoso.id().to_string(), &fields).await
}

fn upn(sim: &Sim, n: usize) -> String {
    sim.contoso.people()[n].upn.clone()
}

fn administrator(sim: &Sim) -> String {
    sim.contoso.administrators().remove(0).upn
}

fn claims(reply: &Reply) -> Value {
    assert_eq!(reply.status, 200, "{}", reply.text);
    let token = reply.json()["id_token"].as_str().unwrap().to_owned();
    let part = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

fn header(reply: &Reply) -> Value {
    let token = reply.json()["id_token"].as_str().unwrap().to_owned();
    let part = token.split('.').next().unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

#[tokio::test]
async fn what_ends_a_refresh_token_and_what_does_not() {
    let sim = Sim::new();
    let (t, upn) = (&sim.contoso, upn(&sim, 0));
    let token = t.mint_refresh_token(CLIENT, &upn);
    assert!(t.change_password(&upn), "the person's own change");
    assert_eq!(refresh(&sim, &token).await.status, 200);
    assert!(t.reset_password(&upn), "the administrator's reset");
    let reply = refresh(&sim, &token).await;
    assert_eq!(codes(&reply), json!([50_173]));
    assert_eq!(reply.json()["suberror"], "bad_token");

    let token = t.mint_refresh_token(CLIENT, &upn);
    t.demand_mfa(&upn, true);
    let reply = refresh(&sim, &token).await;
    assert_eq!(codes(&reply), json!([50_076]));
    assert_eq!(reply.json()["suberror"], "basic_action");
    assert!(
        reply.json()["claims"]
            .as_str()
            .unwrap()
            .contains("capolids")
    );
    t.demand_mfa(&upn, false);

    t.set_sign_in_frequency(Some(Duration::from_hours(12)));
    assert_eq!(refresh(&sim, &token).await.status, 200);
    sim.clock.jump(Duration::from_hours(12));
    let renewed = refresh(&sim, &token).await;
    assert_eq!(codes(&renewed), json!([70_043]));
    t.set_sign_in_frequency(None);

    t.block_by_policy(true);
    assert_eq!(codes(&refresh(&sim, &token).await), json!([53_003]));
    t.block_by_policy(false);
    t.require_assignment(CLIENT, true);
    assert_eq!(codes(&refresh(&sim, &token).await), json!([50_105]));
    assert!(t.assign(CLIENT, &upn));
    assert_eq!(refresh(&sim, &token).await.status, 200);
    t.enable_application(CLIENT, false);
    let reply = refresh(&sim, &token).await;
    assert_eq!(codes(&reply), json!([7_000_112]));
    let id = t.id().to_string();
    assert_eq!(
        codes(&sim.ask_token(&id, &APP_GRANT).await),
        json!([7_000_112])
    );
    t.enable_application(CLIENT, true);
    t.remove_application(CLIENT);
    assert_eq!(codes(&refresh(&sim, &token).await), json!([65_001]));
    assert_eq!(
        codes(&sim.ask_token(&id, &APP_GRANT).await),
        json!([700_016])
    );
    t.delete_person(&upn);
    assert_eq!(codes(&refresh(&sim, &token).await), json!([50_034]));
    t.set_deleted(true);
    assert_eq!(codes(&refresh(&sim, &token).await), json!([90_002]));
    let other = sim.app_token(&sim.fabrikam).await;
    assert!(!other.is_empty(), "the other organisation notices nothing");
}

#[tokio::test]
async fn a_new_consent_of_the_organisation_needs_time_to_be_known() {
    let sim = Sim::new();
    sim.microsoft
        .set_switches(|s| s.consent_propagation = Duration::from_mins(2));
    sim.contoso.remove_application(CLIENT);
    // Somebody has signed in before the administrator consents.
    sim.contoso.mint_refresh_token(CLIENT, &upn(&sim, 0));
    sim.clock.jump(Duration::from_hours(1));
    sim.contoso.grant_consent(CLIENT, &ALL, &[]);
    let id = sim.contoso.id().to_string();
    let early = sim.ask_token(&id, &APP_GRANT).await;
    assert_eq!(codes(&early), json!([700_016]));
    sim.clock.jump(Duration::from_mins(2));
    assert_eq!(sim.ask_token(&id, &APP_GRANT).await.status, 200);
}

#[tokio::test]
async fn a_demanded_second_factor_is_asked_for_once_and_then_lasts() {
    let sim = Sim::new();
    let upn = upn(&sim, 0);
    sim.contoso.demand_mfa(&upn, true);
    let (page, back) = sign_in(&sim, &[]).await;
    assert!(page.text.contains("Verify your identity") && back.is_empty());
    assert!(
        page.text.contains("name=\"account\""),
        "it is carried along"
    );
    let (page, _) = sign_in(&sim, &[("sim_mfa", "failed")]).await;
    assert!(page.text.contains("AADSTS50074"));
    let (_, back) = sign_in(&sim, &[("sim_mfa", "passed")]).await;
    let reply = redeem(&sim, "organizations", &get(&back, "code"), VERIFIER).await;
    let token = reply.json()["refresh_token"].as_str().unwrap().to_owned();
    let reply = refresh(&sim, &token).await;
    assert_eq!(reply.status, 200);
    let next = reply.json()["refresh_token"].as_str().unwrap().to_owned();
    assert_eq!(refresh(&sim, &next).await.status, 200, "it is inherited");
}

#[tokio::test]
async fn guests_come_from_elsewhere_and_their_id_token_says_so() {
    let sim = Sim::new();
    let mail = sim.fabrikam.people()[0].upn.clone();
    let guest = sim.contoso.add_guest(&mail);
    assert!(guest.upn.contains("#EXT#"));
    for typed in [guest.upn.as_str(), mail.as_str()] {
        let changed = [("account", ""), ("typed_account", typed)];
        let client = CLIENT.to_string();
        let mut fields = vec![
            ("client_id", client.as_str()),
            ("response_type", "code"),
            ("redirect_uri", BACK),
            ("scope", "openid profile"),
            ("sim_decision", "accept"),
        ];
        fields.extend(changed);
        let path = format!("/{}/oauth2/v2.0/authorize", sim.contoso.id());
        let reply = sim.form(&path, &fields).await;
        let url = url::Url::parse(reply.header("location")).unwrap();
        let code = url.query_pairs().find(|(n, _)| n == "code").unwrap().1;
        let reply = redeem(&sim, &sim.contoso.id().to_string(), &code, VERIFIER).await;
        let claims = claims(&reply);
        assert_eq!(claims["tid"], sim.contoso.id().to_string());
        assert_eq!(claims["oid"], guest.id.to_string());
        assert_eq!(
            claims["idp"],
            format!("https://sts.windows.net/{}/", sim.fabrikam.id())
        );
        assert!(reply.json().get("refresh_token").is_none());
    }
}

#[tokio::test]
async fn personal_accounts_are_refused_on_the_page_or_come_back_as_such() {
    let sim = Sim::new();
    let typed = [
        ("typed_account", "ann@outlook.com"),
        ("scope", "openid profile"),
    ];
    let (page, back) = sign_in(&sim, &typed).await;
    assert!(page.text.contains("personal account") && back.is_empty());
    sim.microsoft
        .set_switches(|s| s.personal_accounts = PersonalAccounts::IdToken);
    let (_, back) = sign_in(&sim, &typed).await;
    let reply = redeem(&sim, "organizations", &get(&back, "code"), VERIFIER).await;
    let claims = claims(&reply);
    assert_eq!(claims["tid"], "9188040d-6c67-4c5b-b112-36a304b66dad");
    assert_eq!(claims["nonce"], "once");
    let access = reply.json()["access_token"].as_str().unwrap().to_owned();
    assert_eq!(
        sim.presences(&access, &ids(&sim.contoso, 1)).await.status,
        401
    );
}

#[tokio::test]
async fn without_user_consent_only_an_administrator_can_accept() {
    let sim = Sim::new();
    sim.contoso.withdraw_consent(CLIENT);
    sim.contoso.allow_user_consent(false);
    let (page, _) = sign_in(&sim, &[]).await;
    assert!(page.text.contains("Need admin approval"));
    let (_, back) = sign_in(&sim, &[("sim_decision", "return")]).await;
    assert_eq!(get(&back, "error"), "access_denied");
    assert!(get(&back, "error_description").starts_with("AADSTS90094: "));
    let admin = administrator(&sim);
    let changed = [("account", admin.as_str()), ("sim_for_all", "yes")];
    let (_, back) = sign_in(&sim, &changed).await;
    assert!(!get(&back, "code").is_empty());
    let (_, back) = sign_in(&sim, &[]).await;
    assert!(!get(&back, "code").is_empty(), "for everybody now");
}

#[tokio::test]
async fn an_ordinary_person_cannot_consent_for_the_organisation() {
    let sim = Sim::new();
    sim.contoso.withdraw_consent(CLIENT);
    let client = CLIENT.to_string();
    let (ordinary, admin) = (upn(&sim, 0), administrator(&sim));
    let ask = async |account: &str, decision: &str| {
        let fields = [
            ("client_id", client.as_str()),
            ("redirect_uri", BACK),
            ("state", "s"),
            ("scope", "https://graph.microsoft.com/.default"),
            ("sim_decision", decision),
            ("account", account),
        ];
        sim.form("/organizations/v2.0/adminconsent", &fields).await
    };
    let page = ask(&ordinary, "accept").await;
    assert!(page.text.contains("Need admin approval"));
    let id = sim.contoso.id().to_string();
    assert_ne!(sim.ask_token(&id, &APP_GRANT).await.status, 200);
    let back = ask(&ordinary, "return").await;
    let location = back.header("location");
    assert!(location.contains("error=access_denied") && location.contains("AADSTS90094"));
    let back = ask(&admin, "accept").await;
    assert!(back.header("location").contains(&format!("tenant={id}")));
    assert_eq!(sim.ask_token(&id, &APP_GRANT).await.status, 200);
}

#[tokio::test]
async fn the_page_says_who_is_who_and_that_it_is_simulated() {
    let sim = Sim::new();
    let guest = sim.contoso.add_guest("ann@elsewhere.example");
    let blocked = upn(&sim, 3);
    sim.contoso.disable_person(&blocked);
    let path = format!(
        "/contoso.example/oauth2/v2.0/authorize?client_id={CLIENT}&response_type=code&redirect_uri={}&scope=openid",
        url::form_urlencoded::byte_serialize(BACK.as_bytes()).collect::<String>()
    );
    let page = sim.get(&path, "").await.text;
    let badge_of = |upn: &str| {
        let at = page.find(&format!("value=\"{upn}\"")).unwrap();
        let label = &page[at..];
        label[..label.find("</label>").unwrap()].to_owned()
    };
    assert!(badge_of(&administrator(&sim)).contains("Administrator"));
    assert!(badge_of(&guest.upn).contains("Guest"));
    assert!(badge_of(&blocked).contains("Disabled"));
    for part in [
        "Simulated Microsoft",
        "<main>",
        "<legend>",
        "lang=\"en\"",
        "<title>",
    ] {
        assert!(page.contains(part), "{part}");
    }
}

#[tokio::test]
async fn what_stands_against_an_account_can_come_back_to_the_application() {
    let sim = Sim::new();
    sim.contoso.require_assignment(CLIENT, true);
    let (page, _) = sign_in(&sim, &[]).await;
    assert!(page.text.contains("AADSTS50105"), "shown on the page");
    sim.microsoft.set_switches(|s| s.refusals_come_back = true);
    let (_, back) = sign_in(&sim, &[]).await;
    assert!(get(&back, "error_description").starts_with("AADSTS50105: "));
}

#[tokio::test]
async fn a_domain_in_another_cloud_is_refused_or_described() {
    let sim = Sim::new();
    let path = "/contoso.example/v2.0/.well-known/openid-configuration";
    for (cloud, code, graph) in [
        (NationalCloud::UsGovernment, 90_038, "graph.microsoft.us"),
        (
            NationalCloud::China,
            900_382,
            "microsoftgraph.chinacloudapi.cn",
        ),
    ] {
        sim.contoso
            .set_cloud(Some((cloud, NationalDiscovery::Refused)));
        let reply = sim.get(path, "").await;
        assert_eq!((reply.status, codes(&reply)), (400, json!([code])));
        assert_eq!(reply.json()["error"], "invalid_tenant");
        sim.contoso
            .set_cloud(Some((cloud, NationalDiscovery::Document)));
        let body = sim.get(path, "").await.json();
        assert_eq!(body["msgraph_host"], graph);
        assert!(
            body["issuer"]
                .as_str()
                .unwrap()
                .contains(&sim.contoso.id().to_string())
        );
        let (page, _) = sign_in(&sim, &[]).await;
        assert!(page.text.contains(&format!("AADSTS{code}")));
    }
}

#[tokio::test]
async fn every_flaw_of_an_id_token_can_be_had_with_a_plain_sign_in() {
    let sim = Sim::new();
    let now = sim.clock.now().as_secs();
    for (name, flaw) in IdTokenFlaw::ALL {
        let scope = Scope::Tenant(sim.contoso.id());
        sim.microsoft
            .set_fault(Fault::BadIdToken { flaw }, scope, Some(1));
        let (_, back) = sign_in(&sim, &[("scope", "openid profile")]).await;
        let reply = redeem(&sim, "organizations", &get(&back, "code"), VERIFIER).await;
        let (header, claims) = (header(&reply), claims(&reply));
        let right = match flaw {
            IdTokenFlaw::Typ => header["typ"] == "JWT",
            IdTokenFlaw::NoNonce => claims.get("nonce").is_some(),
            IdTokenFlaw::Future => claims["iat"].as_i64().unwrap() <= now,
            IdTokenFlaw::Nonce => claims["nonce"] == "once",
            IdTokenFlaw::Alg | IdTokenFlaw::Hs256 => header["alg"] == "RS256",
            _ => false,
        };
        assert!(!right, "{name}");
    }
    assert!(sim.microsoft.faults().is_empty(), "each hit");
}

#[tokio::test]
async fn roles_are_named_only_when_the_application_wants_them() {
    let sim = Sim::new();
    let admin = administrator(&sim);
    let changed = [("account", admin.as_str())];
    sim.microsoft.set_switches(|s| s.wids = false);
    let (_, back) = sign_in(&sim, &changed).await;
    let reply = redeem(&sim, "organizations", &get(&back, "code"), VERIFIER).await;
    assert!(claims(&reply).get("wids").is_none());
    sim.microsoft.set_switches(|s| s.wids = true);
    let (_, back) = sign_in(&sim, &changed).await;
    let reply = redeem(&sim, "organizations", &get(&back, "code"), VERIFIER).await;
    assert_eq!(
        claims(&reply)["wids"][0],
        "62e90394-69f5-4237-9190-012177145e10"
    );
}

#[tokio::test]
async fn a_test_read_shows_whether_permissions_are_there() {
    let sim = Sim::new();
    let app = sim.app_token(&sim.contoso).await;
    let list = "/v1.0/users?$top=1&$select=id";
    let reply = sim.get(list, &app).await;
    assert_eq!(reply.json()["value"].as_array().unwrap().len(), 1);
    assert_eq!(sim.get("/v1.0/me?$select=id", &app).await.status, 400);
    let (_, back) = sign_in(
        &sim,
        &[(
            "scope",
            "openid https://graph.microsoft.com/User.ReadBasic.All",
        )],
    )
    .await;
    let reply = redeem(&sim, "organizations", &get(&back, "code"), VERIFIER).await;
    let access = reply.json()["access_token"].as_str().unwrap().to_owned();
    let me = sim.get("/v1.0/me?$select=id", &access).await.json();
    assert_eq!(me["id"], sim.contoso.people()[0].id.to_string());
    sim.contoso.withdraw_consent(CLIENT);
    assert_eq!(sim.get(list, &app).await.status, 403);
    let users = sim
        .microsoft
        .requests()
        .of(sim.contoso.id(), Endpoint::Users);
    assert_eq!((users.total, users.ok), (4, 2));
}

#[tokio::test]
async fn the_control_api_lets_all_of_it_happen() {
    let sim = Sim::new();
    let upn = upn(&sim, 0);
    let post = async |path: &str, body: Value| {
        let request = Request::post(path).body(body.to_string().into()).unwrap();
        let reply = sim.send(request).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text);
    };
    let token = sim.contoso.mint_refresh_token(CLIENT, &upn);
    for (action, code) in [
        ("demand-mfa", 50_076),
        ("waive-mfa", 0),
        ("change-password", 0),
        ("administrator", 0),
        ("ordinary", 0),
        ("reset-password", 50_173),
    ] {
        post(&format!("/sim/people/{action}"), json!({ "upn": upn })).await;
        let reply = refresh(&sim, &token).await;
        let got = reply.json()["error_codes"][0].as_i64().unwrap_or(0);
        assert_eq!(got, code, "{action}");
    }
    let token = sim.contoso.mint_refresh_token(CLIENT, &upn);
    for (change, code) in [
        (json!({ "blocked": true }), 53_003),
        (
            json!({ "blocked": false, "assignment_required": true }),
            50_105,
        ),
        (json!({ "assign": upn }), 0),
        (json!({ "application": "disabled" }), 7_000_112),
        (
            json!({ "application": "enabled", "cloud": "china", "discovery": "document" }),
            900_382,
        ),
        (json!({ "cloud": "global", "deleted": true }), 90_002),
        (
            json!({ "deleted": false, "user_consent": false, "sign_in_every_secs": 0 }),
            0,
        ),
        (json!({ "application": "removed" }), 65_001),
    ] {
        let mut body = json!({ "tenant": "contoso.example", "client_id": CLIENT });
        body.as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        post("/sim/organisation", body.clone()).await;
        let reply = refresh(&sim, &token).await;
        let got = reply.json()["error_codes"][0].as_i64().unwrap_or(0);
        assert_eq!(got, code, "{body}");
    }
    post(
        "/sim/switches",
        json!({ "wids": true, "personal_accounts": true, "consent_propagation_secs": 30 }),
    )
    .await;
}
