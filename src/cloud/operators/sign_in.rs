//! Signing in with the operators' password or at the issuer, and out.

pub mod issuer;

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde::Deserialize;

use super::desk::{Answer, Common, Desk, Failure, Nothing, Sent, Visit, go, page, with_cookie};
use super::password::Verdict;
use super::texts::Texts;
use crate::cloud::store::{Action, Actor, Deed, OperatorSession, Role};
use crate::cloud::web::session::hash;
use crate::model::Timestamp;
use crate::secret::{Secret, random_token};

/// Who signed in with the password, in the audit log: the password says no more.
pub const BY_PASSWORD: &str = "by password";

/// Who did not sign in, in the audit log.
pub const NOBODY: &str = "not signed in";

#[derive(Template)]
#[template(path = "operators/sign_in.html")]
struct SignInPage {
    t: &'static Texts,
    c: Common,
    has_password: bool,
    /// The host of the issuer; empty for none.
    issuer: String,
    problem: &'static str,
}

#[derive(Template)]
#[template(path = "operators/signed_out.html")]
struct SignedOutPage {
    t: &'static Texts,
    c: Common,
    issuer: String,
    /// Where to sign out of the issuer.
    at_issuer: String,
}

fn show(desk: &Desk, visit: &Visit, problem: &'static str) -> Answer {
    let response = page(&SignInPage {
        t: desk.texts,
        c: Common {
            csrf: visit.csrf(),
            ..Common::default()
        },
        has_password: desk.operators.config.password_file.is_some(),
        issuer: host(desk),
        problem,
    })?;
    Ok(if visit.is_new {
        with_cookie(response, &desk.cookies.for_session(&visit.secret))
    } else {
        response
    })
}

/// The host of the issuer; empty for none.
fn host(desk: &Desk) -> String {
    let issuer = desk.operators.issuer.as_ref();
    issuer
        .map(|issuer| issuer.host().to_owned())
        .unwrap_or_default()
}

/// The form.
pub async fn form(State(desk): State<Arc<Desk>>, visit: Visit) -> Answer {
    if visit.session.is_some() {
        return Ok(go("/"));
    }
    show(&desk, &visit, "")
}

/// What the form says.
#[derive(Deserialize)]
pub struct Password {
    #[serde(default)]
    password: String,
}

/// Tries a password.
pub async fn try_password(State(desk): State<Arc<Desk>>, sent: Sent<Password>) -> Answer {
    let Some(stored) = desk.stored().await else {
        return Err(Failure::Forbidden);
    };
    let (now, proof) = (desk.operations().now(), stored.proof());
    let typed = Secret::new(sent.form.password);
    match desk.gate.attempt(sent.address, stored, typed, now).await {
        Verdict::Right => {
            let session = OperatorSession {
                operator: BY_PASSWORD.into(),
                role: Role::Operator,
                proof,
                created_at: now,
                used_at: now,
            };
            let detail = session.role.as_str();
            begin(&desk, &sent.visit, session, detail).await
        }
        Verdict::Wrong => {
            let detail = format!("wrong password from {}", sent.address);
            refused(&desk, NOBODY, &detail, now).await?;
            tracing::warn!(peer.address = %sent.address, "an operators' sign-in was refused: wrong password");
            let mut response = show(&desk, &sent.visit, desk.texts.sign_in.wrong)?;
            *response.status_mut() = StatusCode::FORBIDDEN;
            Ok(response)
        }
        Verdict::Wait(wait) => Err(Failure::Wait(wait)),
        Verdict::Busy => Err(Failure::Wait(std::time::Duration::from_secs(5))),
    }
}

/// Enters into the audit log that somebody was not let in. Nobody may fill it: what is beyond the measure is only logged.
async fn refused(desk: &Desk, who: &str, detail: &str, now: Timestamp) -> Result<(), Failure> {
    if desk.refusals.check().is_err() {
        return Ok(());
    }
    let by = Actor::Operator(who.into());
    let deed = Deed {
        by: &by,
        action: Action::OperatorRefused,
        tenant: None,
        suite: None,
        detail,
    };
    Ok(desk.operations().store().note(deed, now).await?)
}

/// Begins a session under a new name: whoever knew the one before knows nothing of this.
async fn begin(
    desk: &Desk,
    visit: &Visit,
    session: OperatorSession,
    detail: &str,
) -> Result<Response, Failure> {
    let (store, now) = (desk.operations().store(), session.created_at);
    if !visit.is_new {
        store.end_operator_session(visit.hash()).await?;
    }
    let by = Actor::Operator(session.operator.clone());
    let deed = Deed {
        by: &by,
        action: Action::OperatorSignedIn,
        tenant: None,
        suite: None,
        detail,
    };
    // First into the log: a session that nobody knows of must not be.
    store.note(deed, now).await?;
    let secret = Secret::new(random_token());
    store.put_operator_session(hash(&secret), &session).await?;
    tracing::info!(role = session.role.as_str(), "an operator signed in");
    Ok(with_cookie(go("/"), &desk.cookies.for_session(&secret)))
}

/// Ends the session.
pub async fn sign_out(State(desk): State<Arc<Desk>>, sent: Sent<Nothing>) -> Answer {
    let store = desk.operations().store();
    store.end_operator_session(sent.visit.hash()).await?;
    let fresh = Secret::new(random_token());
    let to = match &desk.operators.issuer {
        Some(_) => "/signed-out",
        None => "/sign-in",
    };
    Ok(with_cookie(go(to), &desk.cookies.for_session(&fresh)))
}

/// Signed out here; the issuer may have a session of its own.
pub async fn signed_out(State(desk): State<Arc<Desk>>) -> Answer {
    let now = desk.operations().now();
    let issuer = desk.operators.issuer.as_ref().ok_or(Failure::NotFound)?;
    let at_issuer = issuer.sign_out_url(now);
    page(&SignedOutPage {
        t: desk.texts,
        c: Common::default(),
        issuer: host(&desk),
        at_issuer: at_issuer.map(String::from).unwrap_or_default(),
    })
}
