//! A program that asks the admin API, with a token or without.

use http::Method;
use presence_bridge::cloud::operators::api::local;
use presence_bridge::cloud::store::{Actor, Role};
use presence_bridge::model::Timestamp;
use presence_bridge::secret::{KeyRing, sha256};
use presence_bridge::world::World;
use serde_json::Value;

use super::stage::Stage;
use super::visitor::{Page, Visitor};

pub struct Asker {
    visitor: Visitor,
    /// The whole value of `Authorization`; empty: none.
    authorization: String,
}

impl Asker {
    pub fn with(world: &World, token: &str) -> Self {
        Self {
            visitor: Visitor::at(world.operators_url()),
            authorization: format!("Bearer {token}"),
        }
    }

    pub fn stranger(world: &World) -> Self {
        Self {
            visitor: Visitor::at(world.operators_url()),
            authorization: String::new(),
        }
    }

    /// With a token made for it, named by its role.
    pub async fn of(stage: &Stage, role: Role) -> Self {
        Self::with(stage, &token(stage, role).await)
    }

    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&str>,
    ) -> Page {
        let mut all = headers.to_vec();
        if !self.authorization.is_empty() {
            all.push(("authorization", &self.authorization));
        }
        let path = format!("/api/v1{path}");
        let body = body.map(|b| b.as_bytes().to_vec());
        self.visitor.send(method, &path, &all, body).await
    }

    pub async fn get(&self, path: &str) -> Page {
        self.send(Method::GET, path, &[], None).await
    }

    /// With a body of JSON; without one if it is empty.
    pub async fn post(&self, path: &str, body: &str) -> Page {
        let json = [("content-type", "application/json")];
        match body {
            "" => self.send(Method::POST, path, &[], None).await,
            body => self.send(Method::POST, path, &json, Some(body)).await,
        }
    }
}

/// A token of that role.
pub async fn token(stage: &Stage, role: Role) -> String {
    let operations = stage.cloud().unwrap().operations();
    let day = std::time::Duration::from_hours(24);
    let made = operations.make_api_token(&Actor::Service, role.as_str(), role, day);
    made.await.unwrap().token
}

/// Which start of the service it is, as it says to everybody.
pub async fn start(stage: &Stage) -> String {
    Asker::stranger(stage).get("/me").await.header(local::START)
}

/// What the command line sends to ask who it is, now.
pub async fn proof(stage: &Stage, actor: &str) -> String {
    let now = stage.cloud().unwrap().operations().now();
    proof_at(stage, actor, now).await
}

/// What it would have sent then.
pub async fn proof_at(stage: &Stage, actor: &str, at: Timestamp) -> String {
    proof_for(stage, actor, ("GET", "/me", ""), &start(stage).await, at)
}

/// A proof for a request: method, path and body.
pub fn proof_for(
    stage: &Stage,
    actor: &str,
    (method, path, body): (&str, &str, &str),
    start: &str,
    at: Timestamp,
) -> String {
    let keys = KeyRing::read(&stage.folder().join("key")).unwrap();
    let errand = local::Errand {
        start,
        method,
        target: &format!("/api/v1{path}"),
        body: sha256(body.as_bytes()),
    };
    let proof = local::prove(&keys, actor, &errand, at).unwrap();
    proof.expose().to_owned()
}

pub fn json(page: &Page) -> Value {
    serde_json::from_str(&page.body).unwrap_or_else(|e| panic!("{e}: {page:?}"))
}

/// That it is a proper problem of that status; its code.
pub fn problem(page: &Page, status: u16) -> String {
    assert_eq!(page.status, status, "{}", page.body);
    assert_eq!(page.header("content-type"), "application/problem+json");
    let body = json(page);
    let code = body["code"].as_str().unwrap();
    assert_eq!(body["status"], status);
    assert_eq!(
        body["type"],
        format!("urn:presence-bridge:problem:{code}").as_str()
    );
    for member in ["title", "detail"] {
        assert!(!body[member].as_str().unwrap().is_empty());
    }
    code.to_owned()
}
