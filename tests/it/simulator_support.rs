//! A simulated Microsoft driven through its router, without sockets.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderMap, Request};
use http_body_util::BodyExt as _;
use presence_bridge::clock::Clock;
use presence_bridge::model::Timestamp;
use presence_bridge::simulator::{AppRegistration, Life, Microsoft, Options, Tenant, TenantSpec};
use serde_json::{Value, json};
use tower::ServiceExt as _;
use uuid::{Uuid, uuid};

pub const CLIENT: Uuid = uuid!("11111111-2222-4333-8444-555555555555");
pub const SECRET: &str = "correct horse/battery+staple";
pub const BACK: &str = "https://bridge.example/callback";
pub const ALL: [&str; 2] = ["Presence.Read.All", "User.ReadBasic.All"];

pub struct Sim {
    pub microsoft: Microsoft,
    pub clock: Clock,
    pub contoso: Tenant,
    pub fabrikam: Tenant,
}

pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Reply {
    /// The whole of it.
    pub async fn read(response: Response) -> Self {
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Self {
            status: parts.status.as_u16(),
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }
}

impl Sim {
    pub fn new() -> Self {
        Self::with(Options::default())
    }

    pub fn with(options: Options) -> Self {
        let clock = Clock::test(Timestamp::from_secs(1_795_514_400));
        let microsoft = Microsoft::new(options, clock.clone());
        microsoft.register_app(AppRegistration {
            client_id: CLIENT,
            secrets: vec![SECRET.into()],
            certificates_pem: Vec::new(),
            redirect_uris: vec![BACK.into()],
        });
        let found = |domain: &str, people| {
            let tenant = microsoft.add_tenant(TenantSpec {
                id: None,
                domain: domain.into(),
                name: domain.into(),
                people,
            });
            tenant.grant_consent(CLIENT, &ALL, &[]);
            tenant
        };
        let contoso = found("contoso.example", 700);
        let fabrikam = found("fabrikam.example", 30);
        Self {
            microsoft,
            clock,
            contoso,
            fabrikam,
        }
    }

    pub fn living() -> Self {
        Self::with(Options {
            life: Life::Day { speed: 1.0 },
            ..Options::default()
        })
    }

    pub async fn raw(&self, request: Request<Body>) -> Response {
        self.microsoft.router().oneshot(request).await.unwrap()
    }

    pub async fn send(&self, request: Request<Body>) -> Reply {
        Reply::read(self.raw(request).await).await
    }

    pub async fn get(&self, path: &str, token: &str) -> Reply {
        let request = Request::get(path)
            .header("host", "sim.example")
            .header("authorization", format!("Bearer {token}"));
        self.send(request.body(Body::empty()).unwrap()).await
    }

    pub async fn post(&self, path: &str, token: &str, body: &Value) -> Reply {
        let request = Request::post(path)
            .header("host", "sim.example")
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {token}"));
        self.send(request.body(body.to_string().into()).unwrap())
            .await
    }

    pub async fn form(&self, path: &str, fields: &[(&str, &str)]) -> Reply {
        let body = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(fields)
            .finish();
        let request = Request::post(path)
            .header("host", "sim.example")
            .header("content-type", "application/x-www-form-urlencoded");
        self.send(request.body(body.into()).unwrap()).await
    }

    pub async fn ask_token(&self, authority: &str, fields: &[(&str, &str)]) -> Reply {
        let client = CLIENT.to_string();
        let mut all = vec![("client_id", client.as_str()), ("client_secret", SECRET)];
        all.extend_from_slice(fields);
        self.form(&format!("/{authority}/oauth2/v2.0/token"), &all)
            .await
    }

    /// An access token of the application itself.
    pub async fn app_token(&self, tenant: &Tenant) -> String {
        let reply = self.ask_token(&tenant.id().to_string(), &APP_GRANT).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        reply.json()["access_token"].as_str().unwrap().to_owned()
    }

    pub async fn presences(&self, token: &str, ids: &[String]) -> Reply {
        Reply::read(self.presences_unread(token, ids).await).await
    }

    pub async fn presences_unread(&self, token: &str, ids: &[String]) -> Response {
        let request = Request::post("/v1.0/communications/getPresencesByUserId")
            .header("host", "sim.example")
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {token}"));
        let body = json!({ "ids": ids }).to_string();
        self.raw(request.body(body.into()).unwrap()).await
    }
}

pub const APP_GRANT: [(&str, &str); 2] = [
    ("grant_type", "client_credentials"),
    ("scope", "https://graph.microsoft.com/.default"),
];

pub fn ids(tenant: &Tenant, n: usize) -> Vec<String> {
    let people = tenant.people();
    people.iter().take(n).map(|p| p.id.to_string()).collect()
}

/// Availability and activity by id.
pub fn shown(reply: &Reply, id: &str) -> (String, String) {
    let body = reply.json();
    let entries = body["value"].as_array().unwrap();
    let entry = entries.iter().find(|e| e["id"] == id).unwrap();
    let text = |name: &str| entry[name].as_str().unwrap().to_owned();
    (text("availability"), text("activity"))
}
