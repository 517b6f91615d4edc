//! Who asks, and what he may do.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequestParts, OriginalUri, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header;
use http::request::Parts;

use super::AdminApi;
use super::ask;
use super::local;
use super::problem::Problem;
use crate::cloud::listener::{Peer, admit};
use crate::cloud::operations::answers::Me;
use crate::cloud::operations::api_tokens;
use crate::cloud::store::{Action, Actor, Deed, Role};
use crate::cloud::tokens::chain;
use crate::model::Timestamp;
use crate::secret::sha256;

/// Somebody who has shown who he is.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Who, for the audit log.
    by: Actor,
    /// The same, as it is told.
    pub me: Me,
}

impl Caller {
    /// How long what he makes may be good: a token makes none that outlives it. `None`: as long as anything.
    pub fn at_most(&self, now: Timestamp) -> Option<Duration> {
        matches!(self.by, Actor::Operator(_)).then(|| now.until(self.me.until))
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let caller = parts.extensions.get::<Self>();
        caller.cloned().ok_or(Problem::NotSignedIn)
    }
}

/// Somebody who may act.
pub struct Acting(pub Actor);

impl<S: Sync> FromRequestParts<S> for Acting {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, state).await?;
        match caller.me.role {
            Role::Operator => Ok(Self(caller.by)),
            Role::Viewer => Err(Problem::OnlyOperators),
        }
    }
}

/// The token that was sent, if one was.
fn token(headers: &http::HeaderMap) -> Option<&str> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = text.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// What may be asked to find out who somebody is: nothing is read for what can be no token of ours.
enum Claim {
    /// The command line of this machine.
    Local(local::Said),
    /// The hash of a token.
    Token([u8; 32]),
}

impl AdminApi {
    /// What a request claims by its token; with the request, of whose body a proof tells the hash.
    async fn claim(
        &self,
        token: &str,
        request: Request,
    ) -> Result<(Option<Claim>, Request), Problem> {
        if !token.starts_with(local::PREFIX) {
            let claim = api_tokens::is_token(token).then(|| Claim::Token(sha256(token.as_bytes())));
            return Ok((claim, request));
        }
        let (parts, body) = request.into_parts();
        let body = ask::whole_body(body).await?;
        let original = parts.extensions.get::<OriginalUri>();
        let uri = original.map_or(&parts.uri, |original| &original.0);
        let errand = local::Errand {
            start: &self.start,
            method: parts.method.as_str(),
            target: uri.path_and_query().map_or("/", |target| target.as_str()),
            body: sha256(&body),
        };
        let said = local::Said::read(token, &errand, self.operations().now());
        let request = Request::from_parts(parts, Body::from(body));
        Ok((said.map(Claim::Local), request))
    }

    /// Whether it may be looked at now: for addresses that have to wait only so much is read.
    fn may_look(&self, address: IpAddr, claim: &Claim) -> Result<(), Problem> {
        let Some(wait) = self.gate.waits(address, self.operations().now()) else {
            return Ok(());
        };
        let looks = match claim {
            Claim::Local(_) => &self.looks_at_keys,
            Claim::Token(_) => &self.looks_at_tokens,
        };
        looks.check().map_err(|_| Problem::TooManyTries(wait))
    }

    async fn who(&self, claim: Claim) -> Result<Option<Caller>, Problem> {
        let now = self.operations().now();
        let hash = match claim {
            Claim::Local(said) => {
                let keys = Arc::clone(&self.operators.keys);
                let checked = tokio::task::spawn_blocking(move || said.check(&keys));
                let checked = checked.await.map_err(|e| Problem::Ours(e.to_string()))?;
                let proven = checked.map_err(|e| Problem::Ours(chain(&e)))?;
                let proven = proven.filter(|proven| self.seen.first(proven, now));
                return Ok(proven.map(|proven| {
                    let by = Actor::CommandLine(proven.actor);
                    Caller {
                        me: Me {
                            name: by.name(),
                            kind: by.kind().into(),
                            role: Role::Operator,
                            until: proven.until,
                        },
                        by,
                    }
                }));
            }
            Claim::Token(hash) => hash,
        };
        let store = self.operations().store();
        let found = store.api_token(hash, now).await?;
        Ok(found.map(|token| {
            let by = Actor::Operator(format!("token {}", token.name));
            Caller {
                me: Me {
                    name: by.name(),
                    kind: by.kind().into(),
                    role: token.role,
                    until: token.expires_at,
                },
                by,
            }
        }))
    }

    /// A wrong token: entered and told like a wrong password. Who goes on has to wait.
    async fn refuse(&self, address: IpAddr) -> Problem {
        let now = self.operations().now();
        if let Some(wait) = self.gate.wrong(address, now) {
            return Problem::TooManyTries(wait);
        }
        tracing::warn!(peer.address = %address, "a request of the admin API was refused: wrong token");
        if self.refusals.check().is_ok() {
            let by = Actor::Operator("not signed in".into());
            let deed = Deed {
                by: &by,
                action: Action::OperatorRefused,
                tenant: None,
                suite: None,
                detail: &format!("wrong token from {address}"),
            };
            if let Err(e) = self.operations().store().note(deed, now).await {
                return e.into();
            }
        }
        Problem::NotSignedIn
    }
}

/// Lets in who has shown who he is, and nobody else, whatever he asks for.
pub async fn let_in(State(api): State<Arc<AdminApi>>, request: Request, next: Next) -> Response {
    let Some(token) = token(request.headers()).map(str::to_owned) else {
        return Problem::NotSignedIn.into_response();
    };
    let address = Peer::of(request.extensions()).network();
    let (claim, mut request) = match api.claim(&token, request).await {
        Ok(claimed) => claimed,
        Err(problem) => return problem.into_response(),
    };
    let Some(claim) = claim else {
        return api.refuse(address).await.into_response();
    };
    if let Err(problem) = api.may_look(address, &claim) {
        return problem.into_response();
    }
    match api.who(claim).await {
        Ok(Some(caller)) => {
            admit(request.extensions());
            request.extensions_mut().insert(caller);
        }
        Ok(None) => return api.refuse(address).await.into_response(),
        Err(problem) => return problem.into_response(),
    }
    let kind = if request.uri().path().ends_with("/audit/export") {
        ask::NDJSON
    } else {
        ask::JSON
    };
    if !ask::accepts(request.headers(), kind) {
        return Problem::NotAcceptable(kind).into_response();
    }
    next.run(request).await
}
