//! A real issuer of OpenID Connect: canaille, which demands PKCE and a nonce, with three people in three groups.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::Mutex;

use presence_bridge::world::WorldSettings;
use reqwest::redirect;
use url::Url;

use super::receivers::{Running, free_port, started, tool};
use super::stage::{Stage, quick};

/// What all of them type there.
pub const PASSWORD: &str = "a password of the issuer";

/// What we and the issuer know.
pub const SECRET: &str = "the-secret-of-presence-operations";

/// The section of the configuration for an issuer at this address.
pub fn section(issuer: &str) -> String {
    format!(
        "issuer = \"{issuer}\"\nclient_id = \"presence\"\nclient_secret_file = \"issuer-secret\"\n\
         scopes = [\"profile\", \"email\", \"groups\"]\n\
         operators = [\"presence-operators\"]\nviewers = [\"helpdesk\"]"
    )
}

/// A stage whose operators sign in at an issuer at this address, which need not be there.
pub async fn stage_at(issuer: &str) -> Stage {
    let settings = WorldSettings {
        cloud_keys: vec![("oidc", section(issuer))],
        ..quick()
    };
    let stage = Stage::new(settings).await;
    let path = stage.folder().join("issuer-secret");
    std::fs::write(&path, SECRET).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    stage
}

/// The issuer. Ended when dropped.
pub struct Issuer {
    port: u16,
    _running: Running,
}

impl Issuer {
    /// A stage, and the issuer at which its operators sign in.
    pub async fn with_stage() -> (Self, Stage) {
        let port = free_port();
        let stage = stage_at(&format!("http://127.0.0.1:{port}")).await;
        let back = stage.operators_url().join("/sign-in/callback").unwrap();
        let mut command = Command::new(tool("PRESENCE_TEST_ISSUER"));
        command
            .arg(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/tests/it/support/issuer.py"
            ))
            .args([port.to_string().as_str(), back.as_str(), SECRET]);
        let running = tokio::task::spawn_blocking(move || started(command, port));
        let issuer = Self {
            port,
            _running: running.await.unwrap(),
        };
        (issuer, stage)
    }

    /// What a person does there: where the browser is sent back to.
    pub async fn sign_in(&self, address: &str, name: &str) -> String {
        let browser = Browser::new(self.port);
        let (mut at, mut page) = browser.get(address).await;
        for (path, field, typed) in [
            ("/login", "login", name),
            ("/auth/password", "password", PASSWORD),
        ] {
            assert!(at.ends_with(path), "{at}: {page}");
            let form = [("csrf_token", csrf(&page)), (field, typed)];
            (at, page) = browser.post(&at, &form).await;
        }
        assert!(at.contains("/sign-in/callback?"), "{at}: {page}");
        at
    }
}

fn csrf(page: &str) -> &str {
    let (_, rest) = page.split_once("name=\"csrf_token\"").expect("a form");
    let (_, rest) = rest.split_once("value=\"").expect("a value");
    rest.split_once('"').expect("its end").0
}

/// A browser at the issuer: follows redirects there, and stops where it is sent away from it.
struct Browser {
    client: reqwest::Client,
    origin: String,
    cookies: Mutex<Vec<(String, String)>>,
}

impl Browser {
    fn new(port: u16) -> Self {
        let client = reqwest::Client::builder().redirect(redirect::Policy::none());
        Self {
            client: client.build().unwrap(),
            origin: format!("http://127.0.0.1:{port}"),
            cookies: Mutex::default(),
        }
    }

    async fn get(&self, address: &str) -> (String, String) {
        self.follow(self.client.get(address), address).await
    }

    async fn post(&self, address: &str, form: &[(&str, &str)]) -> (String, String) {
        let body = serde_urlencoded::to_string(form).unwrap();
        let request = self.client.post(address).body(body);
        let kind = ("content-type", "application/x-www-form-urlencoded");
        self.follow(request.header(kind.0, kind.1), address).await
    }

    /// Where it ends, and the page there.
    async fn follow(&self, first: reqwest::RequestBuilder, address: &str) -> (String, String) {
        let (mut request, mut at) = (first, Url::parse(address).unwrap());
        loop {
            let cookies: Vec<String> = {
                let held = self.cookies.lock().unwrap();
                held.iter().map(|(n, v)| format!("{n}={v}")).collect()
            };
            let answer = request
                .header("cookie", cookies.join("; "))
                .send()
                .await
                .unwrap();
            for set in answer.headers().get_all("set-cookie") {
                let pair = set.to_str().unwrap().split(';').next().unwrap();
                let (name, value) = pair.split_once('=').unwrap();
                let mut held = self.cookies.lock().unwrap();
                held.retain(|(n, _)| n != name);
                held.push((name.into(), value.into()));
            }
            let Some(to) = answer.headers().get("location") else {
                return (at.into(), answer.text().await.unwrap());
            };
            at = at.join(to.to_str().unwrap()).unwrap();
            if !at.as_str().starts_with(&self.origin) {
                return (at.into(), String::new());
            }
            request = self.client.get(at.clone());
        }
    }
}
