//! Signing in with the operators' password, and out.

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
use crate::secret::{Secret, random_token};

/// Who signed in with the password, in the audit log: the password says no more.
const BY_PASSWORD: &str = "by password";

#[derive(Template)]
#[template(path = "operators/sign_in.html")]
struct SignInPage {
    t: &'static Texts,
    c: Common,
    has_password: bool,
    problem: &'static str,
}

fn show(desk: &Desk, visit: &Visit, problem: &'static str) -> Answer {
    let response = page(&SignInPage {
        t: desk.texts,
        c: Common {
            csrf: visit.csrf(),
            ..Common::default()
        },
        has_password: desk.operators.config.password_file.is_some(),
        problem,
    })?;
    Ok(if visit.is_new {
        with_cookie(response, &desk.cookies.for_session(&visit.secret))
    } else {
        response
    })
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
            begin(&desk, &sent.visit, session).await
        }
        Verdict::Wrong => {
            // Nobody may fill the audit log: what is beyond the measure is only logged.
            if desk.refusals.check().is_ok() {
                let by = Actor::Operator("not signed in".into());
                let deed = Deed {
                    by: &by,
                    action: Action::OperatorRefused,
                    tenant: None,
                    suite: None,
                    detail: &format!("wrong password from {}", sent.address),
                };
                desk.operations().store().note(deed, now).await?;
            }
            tracing::warn!(peer.address = %sent.address, "an operators' sign-in was refused: wrong password");
            let mut response = show(&desk, &sent.visit, desk.texts.sign_in.wrong)?;
            *response.status_mut() = StatusCode::FORBIDDEN;
            Ok(response)
        }
        Verdict::Wait(wait) => Err(Failure::Wait(wait)),
        Verdict::Busy => Err(Failure::Wait(std::time::Duration::from_secs(5))),
    }
}

/// Begins a session under a new name: whoever knew the one before knows nothing of this.
async fn begin(desk: &Desk, visit: &Visit, session: OperatorSession) -> Result<Response, Failure> {
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
        detail: session.role.as_str(),
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
    Ok(with_cookie(
        go("/sign-in"),
        &desk.cookies.for_session(&fresh),
    ))
}
