//! Neither our client nor the simulator believes only the other: both are held against Microsoft's own description.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use presence_bridge::clock::Clock;
use presence_bridge::microsoft::{AppCredential, Entra, Graph, Recovery, RouterTransport};
use presence_bridge::model::{Timestamp, Upn, UserId};
use presence_bridge::secret::Secret;
use presence_bridge::simulator::{
    AppRegistration, Casing, Fault, Microsoft, Options, Scope, Tenant, TenantSpec,
};
use serde_json::json;
use url::Url;
use uuid::{Uuid, uuid};

use crate::support::openapi::{Checked, Contract, Seen};

const CLIENT: Uuid = uuid!("11111111-2222-4333-8444-555555555555");
const LOGIN: &str = "https://login.microsoftonline.com";

#[test]
fn the_judge_accepts_what_microsoft_documents() {
    let contract = Contract::load();
    let presences = "/v1.0/communications/getPresencesByUserId";
    let ids = json!({"ids": ["a"]}).to_string();
    contract
        .check_request("POST", presences, ids.as_bytes())
        .unwrap();
    for url in [
        "/v1.0/users?$filter=userPrincipalName%20in%20('a@x.com')&$select=id,userPrincipalName&$top=15",
        "/users/ann@x.com?$select=id",
        "/users('%24ann@x.com')?$select=id",
        "/users/a%2Fb/presence",
        "/communications/presences/x",
    ] {
        contract.check_request("GET", url, b"").unwrap();
    }
    let busy = json!({"value": [{"id": "x", "availability": "Busy", "activity": null,
        "outOfOfficeSettings": null, "statusMessage": null, "workLocation": null}]});
    let busy = busy.to_string();
    contract
        .check_response("POST", presences, 200, busy.as_bytes())
        .unwrap();
    let error = json!({"error": {"code": "", "message": "", "innerError": {"date": "2025-02-13T10:17:06"}}});
    let error = error.to_string();
    contract
        .check_response("POST", presences, 429, error.as_bytes())
        .unwrap();
    contract
        .check_response("POST", "/v1.0/$batch", 400, error.as_bytes())
        .unwrap();
}

#[test]
fn the_judge_refuses_requests_nobody_described() {
    let contract = Contract::load();
    for (method, url, body) in [
        ("GET", "/v1.0/users?$skip=5", ""),
        ("GET", "/v1.0/users?$top=many", ""),
        ("GET", "/v1.0/users?$top=1&$top=2", ""),
        ("GET", "/v1.0/users?$select=id,id", ""),
        ("GET", "/v1.0/user", ""),
        ("GET", "/v1.0/users/x/presence/y", ""),
        ("GET", "/v1.0/users//presence", ""),
        ("GET", "/v1.0/communications/getPresencesByUserId", ""),
        ("GET", "/v1.0/users", "{}"),
        ("POST", "/v1.0/communications/getPresencesByUserId", ""),
        (
            "POST",
            "/v1.0/communications/getPresencesByUserId",
            r#"{"ids":[1]}"#,
        ),
        (
            "POST",
            "/v1.0/communications/getPresencesByUserId",
            r#"{"ids":"x"}"#,
        ),
    ] {
        assert!(
            contract
                .check_request(method, url, body.as_bytes())
                .is_err(),
            "{method} {url}"
        );
    }
    let get = |id: &str, url: &str| json!({"id": id, "method": "GET", "url": url});
    for requests in [
        json!([]),
        json!([get("1", "/users"), get("1", "/users")]),
        json!([get("a", "/users"), get("A", "/users")]),
        json!([get("1", "/v1.0/users")]),
        json!([get("1", "users")]),
        json!([get("1", "/$batch")]),
        json!([get("1", "/users?$skip=1")]),
        json!([{"id": "1", "method": "POST", "url": "/communications/getPresencesByUserId", "body": {"ids": []}}]),
        json!(
            (0..21)
                .map(|n| get(&n.to_string(), "/users"))
                .collect::<Vec<_>>()
        ),
    ] {
        let body = json!({"requests": requests}).to_string();
        assert!(
            contract
                .check_request("POST", "/v1.0/$batch", body.as_bytes())
                .is_err(),
            "{body}"
        );
    }
}

#[test]
fn the_judge_refuses_answers_nobody_described() {
    let contract = Contract::load();
    let presences = "/communications/getPresencesByUserId";
    for (status, body) in [
        (200, json!({"value": [{"availability": 1}]})),
        (200, json!({"value": {}})),
        (
            200,
            json!({"value": [{"outOfOfficeSettings": {"isOutOfOffice": "yes"}}]}),
        ),
        (
            200,
            json!({"value": [{"workLocation": {"workLocationType": "moon", "source": "none"}}]}),
        ),
        (
            200,
            json!({"value": [{"workLocation": {"source": "none"}}]}),
        ),
        (429, json!({})),
        (400, json!({"error": {"code": "x"}})),
        (400, json!({"error": "x"})),
        (302, json!({})),
    ] {
        let text = body.to_string();
        assert!(
            contract
                .check_response("POST", presences, status, text.as_bytes())
                .is_err(),
            "{status} {body}"
        );
    }
    assert!(
        contract
            .check_response("POST", presences, 200, b"<html>")
            .is_err()
    );
}

#[test]
fn the_judge_looks_into_batches() {
    let contract = Contract::load();
    let ask = json!({"requests": [{"id": "1", "method": "GET", "url": "/users/a?$select=id"}]});
    let judge = |answer: serde_json::Value| {
        let (ask, answer) = (ask.to_string(), answer.to_string());
        contract.check_exchange(
            "POST",
            "/v1.0/$batch",
            ask.as_bytes(),
            200,
            answer.as_bytes(),
        )
    };
    let answer = |id: &str, body: serde_json::Value| json!({"id": id, "status": 200, "body": body});
    judge(json!({"responses": [answer("1", json!({"id": "x"}))]})).unwrap();
    assert!(judge(json!({"responses": [answer("1", json!({"id": 1}))]})).is_err());
    assert!(judge(json!({"responses": [answer("2", json!({"id": "x"}))]})).is_err());
    assert!(judge(json!({"responses": []})).is_err());
}

type Means = fn(&Recovery) -> bool;

struct Set {
    microsoft: Microsoft,
    tenant: Tenant,
    entra: Entra,
    graph: Graph,
    seen: Arc<Mutex<Seen>>,
}

fn set() -> Set {
    let clock = Clock::test(Timestamp::from_secs(1_795_514_400));
    let options = Options {
        // The audience of an assertion.
        base_url: Some(Url::parse(LOGIN).unwrap()),
        ..Options::default()
    };
    let microsoft = Microsoft::new(options, clock.clone());
    microsoft.register_app(AppRegistration {
        client_id: CLIENT,
        secrets: vec!["s3cret".into()],
        ..AppRegistration::default()
    });
    let tenant = microsoft.add_tenant(TenantSpec {
        domain: "contoso.example".into(),
        name: "Contoso".into(),
        people: 2_000,
        ..TenantSpec::default()
    });
    let permissions = ["Presence.Read.All", "User.ReadBasic.All"];
    tenant.grant_consent(CLIENT, &permissions, &permissions);
    let (transport, seen) = Checked::new(RouterTransport(microsoft.router()));
    let graph_root = Url::parse("https://graph.microsoft.com").unwrap();
    let entra = Entra::new(
        transport.clone(),
        Url::parse(LOGIN).unwrap(),
        graph_root.clone(),
        CLIENT,
        AppCredential::Secret(Secret::new("s3cret")),
        clock,
    );
    Set {
        graph: Graph::new(transport, graph_root),
        entra: entra.unwrap(),
        microsoft,
        tenant,
        seen,
    }
}

impl Set {
    async fn token(&self) -> Secret {
        self.entra.app_token(self.tenant.id()).await.unwrap().secret
    }

    fn upns(&self) -> Vec<Upn> {
        let people = self.tenant.people();
        people.iter().map(|p| Upn::parse(&p.upn).unwrap()).collect()
    }

    fn ids(&self) -> Vec<UserId> {
        self.tenant.people().iter().map(|p| p.id).collect()
    }

    fn exchanges(&self, path: &str, status: u16) -> usize {
        let seen = self.seen.lock().unwrap();
        let fits = |(key, _): &(&(String, String, u16), &usize)| key.1 == path && key.2 == status;
        seen.exchanges.iter().filter(fits).map(|(_, n)| n).sum()
    }

    fn assert_clean(&self) {
        let violations = &self.seen.lock().unwrap().violations;
        assert!(violations.is_empty(), "{violations:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn two_thousand_people_are_found_and_read_within_the_contract() {
    let set = set();
    let found = set.entra.discover("contoso.example").await.unwrap();
    assert_eq!(found.tenant, set.tenant.id());
    let token = set.token().await;
    let upns = set.upns();
    let mut ids = Vec::new();
    let mut units = 0;
    for part in upns.chunks(300) {
        let lookup = set.graph.lookup(&token, part).await.unwrap();
        assert!(lookup.failed.is_empty() && lookup.not_found.is_empty());
        units += lookup.units;
        ids.extend(lookup.found.into_iter().map(|(_, id)| id));
    }
    assert_eq!(set.exchanges("/$batch", 200), 7);
    assert_eq!(units, 134);
    let all: HashSet<UserId> = set.ids().into_iter().collect();
    assert_eq!(ids.iter().copied().collect::<HashSet<_>>(), all);

    let ann = &upns[17];
    set.tenant
        .set_presence(ann.as_str(), "DoNotDisturb", "Presenting");
    set.tenant
        .set_out_of_office(ann.as_str(), true, Some("away"));
    set.tenant
        .set_status_message(ann.as_str(), Some("on stage"));
    set.tenant.set_work_location(ann.as_str(), Some("remote"));
    let id = set.tenant.person(ann.as_str()).unwrap().id;
    let mut read = 0;
    for part in ids.chunks(650) {
        let map = set.graph.presences(&token, part).await.unwrap();
        read += map.len();
        if let Some(presence) = map.get(&id) {
            assert_eq!(presence.activity.as_str(), "Presenting");
            assert_eq!(presence.out_of_office, Some(true));
            assert_eq!(presence.status_message.as_deref(), Some("on stage"));
            assert_eq!(presence.work_location.as_ref().unwrap().as_str(), "remote");
        }
    }
    assert_eq!(read, 2_000);
    assert_eq!(
        set.exchanges("/communications/getPresencesByUserId", 200),
        4
    );
    set.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn odd_and_missing_names_stay_within_the_contract() {
    let set = set();
    let token = set.token().await;
    let long = format!("{}@contoso.example", "x".repeat(120));
    let odd = [
        "pat.o'hara@contoso.example",
        "a#b+c&d%e@contoso.example",
        long.as_str(),
        "Mixed.Case@contoso.example",
    ];
    for name in odd {
        set.tenant.add_person(name);
    }
    let absent = format!("{}@contoso.example", "y".repeat(120));
    let upns: Vec<Upn> = odd
        .into_iter()
        .chain(["nobody@contoso.example", absent.as_str()])
        .map(|name| Upn::parse(name).unwrap())
        .collect();
    let lookup = set.graph.lookup(&token, &upns).await.unwrap();
    assert!(lookup.failed.is_empty(), "{:?}", lookup.failed);
    assert_eq!(lookup.found.len(), odd.len());
    for (upn, id) in &lookup.found {
        assert_eq!(set.tenant.person(upn.as_str()).unwrap().id, *id);
    }
    assert_eq!(lookup.not_found.len(), 2);
    set.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn every_refusal_stays_within_the_contract_and_means_what_it_should() {
    let set = set();
    let token = set.token().await;
    let ids = &set.ids()[..10];
    let poison = ids[3].0;
    let cases: [(Fault, Means); 10] = [
        (
            Fault::Throttle { retry_after: 9 },
            |r| matches!(r, Recovery::Throttled { after: Some(a) } if a.as_secs() == 9),
        ),
        (Fault::ThrottleNoRetryAfter, |r| {
            *r == Recovery::Throttled { after: None }
        }),
        (
            Fault::Unavailable {
                retry_after: Some(3),
            },
            |r| matches!(r, Recovery::Retry { after: Some(a) } if a.as_secs() == 3),
        ),
        (Fault::ServerError, |r| *r == Recovery::Split),
        (Fault::TokenExpired, |r| {
            *r == Recovery::FreshToken { claims: None }
        }),
        (Fault::ClaimsChallenge, |r| {
            matches!(r, Recovery::FreshToken { claims: Some(_) })
        }),
        (Fault::Flapping401, |r| {
            *r == Recovery::FreshToken { claims: None }
        }),
        (Fault::Forbidden, |r| {
            matches!(r, Recovery::AskAdministrator(_))
        }),
        (Fault::ConsentWithdrawn, |r| {
            matches!(r, Recovery::AskAdministrator(_))
        }),
        (
            Fault::PoisonUser {
                id: poison,
                status: 400,
            },
            |r| *r == Recovery::Split,
        ),
    ];
    for (fault, means) in cases {
        let name = fault.name();
        set.microsoft.set_fault(fault, Scope::of(None, None), None);
        let error = set.graph.presences(&token, ids).await.unwrap_err();
        assert!(
            means(&error.recovery()),
            "{name}: {error} {:?}",
            error.recovery()
        );
        if let Err(error) = set.graph.lookup(&token, &set.upns()[..20]).await {
            assert!(error.status().is_some(), "{name}: {error}");
        }
        set.microsoft.clear_faults(None, None);
        set.assert_clean();
    }
    assert!(set.graph.presences(&token, ids).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_no_answers_are_survived() {
    let set = set();
    let token = set.token().await;
    let ids = &set.ids()[..10];
    for fault in [
        Fault::GatewayHtml,
        Fault::GarbageJson,
        Fault::TruncatedJson,
        Fault::HugeBody,
        Fault::EmptyBody,
        Fault::Stall,
        Fault::Reset,
        Fault::Slow { delay_ms: 60_000 },
        Fault::Redirect {
            to: "https://evil.example/".into(),
            status: 307,
        },
        Fault::Drip { delay_ms: 1_000 },
        Fault::Endless,
        Fault::GzipBomb,
        Fault::GzipHollow,
        Fault::GzipGarbage,
        Fault::DeepJson,
        Fault::PortalPage,
        Fault::WrongCharset,
        Fault::ErrorInOk,
    ] {
        let name = fault.name();
        set.microsoft.set_fault(fault, Scope::of(None, None), None);
        let error = set.graph.presences(&token, ids).await.unwrap_err();
        assert!(
            matches!(error.recovery(), Recovery::Retry { .. }),
            "{name}: {error}"
        );
        let error = set
            .graph
            .lookup(&token, &set.upns()[..20])
            .await
            .unwrap_err();
        assert!(
            matches!(error.recovery(), Recovery::Retry { .. }),
            "{name}: {error}"
        );
        set.microsoft.clear_faults(None, None);
    }
}

#[tokio::test(start_paused = true)]
async fn odd_but_lawful_answers_are_read() {
    let set = set();
    let token = set.token().await;
    let ids = &set.ids()[..10];
    let missing = Fault::MissingUser { id: ids[0].0 };
    for (fault, expected) in [
        (Fault::NullFields, 10),
        (Fault::ExtraFields, 10),
        (Fault::UnknownAvailability, 10),
        (Fault::CamelCase, 10),
        (missing, 9),
    ] {
        let name = fault.name();
        set.microsoft.set_fault(fault, Scope::of(None, None), None);
        let map = set.graph.presences(&token, ids).await.unwrap();
        assert_eq!(map.len(), expected, "{name}");
        set.microsoft.clear_faults(None, None);
        set.assert_clean();
    }
    set.microsoft
        .set_switches(|switches| switches.casing = Casing::Camel);
    let map = set.graph.presences(&token, ids).await.unwrap();
    assert!(map.values().all(|p| p.availability.as_str() == "Available"));
    set.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_service_account_is_refreshed_until_its_consent_is_withdrawn() {
    let set = set();
    let person = set.upns()[0].clone();
    let mut token = Secret::new(set.tenant.mint_refresh_token(CLIENT, person.as_str()));
    for _ in 0..3 {
        let refreshed = set.entra.refresh(set.tenant.id(), &token).await.unwrap();
        assert!(refreshed.access.has_scope("Presence.Read.All"));
        let ids = &set.ids()[..5];
        let map = set.graph.presences(&refreshed.access.secret, ids).await;
        assert_eq!(map.unwrap().len(), 5);
        token = refreshed.refresh_token.unwrap();
    }
    set.tenant.withdraw_consent(CLIENT);
    let error = set
        .entra
        .refresh(set.tenant.id(), &token)
        .await
        .unwrap_err();
    assert!(matches!(error.recovery(), Recovery::Reauthorize(c) if c.code == "AADSTS65001"));
    let error = set.entra.app_token(set.tenant.id()).await.unwrap_err();
    assert!(matches!(error.recovery(), Recovery::AskAdministrator(c) if c.code == "AADSTS700016"));
    set.microsoft.expire_secret(CLIENT, "s3cret");
    let error = set.entra.app_token(set.tenant.id()).await.unwrap_err();
    assert!(matches!(
        error.recovery(),
        Recovery::OurFault { for_all: true, .. }
    ));
    set.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_certificate_of_ours_is_accepted() {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["app".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let set = set();
    set.microsoft.register_app(AppRegistration {
        client_id: CLIENT,
        certificates_pem: vec![certificate.pem()],
        ..AppRegistration::default()
    });
    let entra = Entra::new(
        Arc::new(RouterTransport(set.microsoft.router())),
        Url::parse(LOGIN).unwrap(),
        Url::parse("https://graph.microsoft.com").unwrap(),
        CLIENT,
        AppCredential::Certificate {
            certificate_pem: certificate.pem(),
            private_key_pem: Secret::new(key.serialize_pem()),
        },
        Clock::test(Timestamp::from_secs(1_795_514_400)),
    )
    .unwrap();
    // Twice: each assertion can be used once.
    for _ in 0..2 {
        let token = entra.app_token(set.tenant.id()).await.unwrap();
        assert_eq!(
            set.graph
                .presences(&token.secret, &set.ids()[..1])
                .await
                .unwrap()
                .len(),
            1
        );
    }
}
