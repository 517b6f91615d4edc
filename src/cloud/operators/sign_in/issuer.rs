//! Signing in at the issuer: there, and back.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::request::Parts;
use axum_extra::extract::cookie::CookieJar;
use http::StatusCode;

use super::super::desk::{Answer, Desk, Failure, Visit, go, with_cookie};
use super::super::oidc::{Brought, Issuer, OidcError, Person, technical};
use super::super::texts::Texts;
use super::{NOBODY, begin, refused};
use crate::cloud::listener::Peer;
use crate::cloud::store::OperatorSession;
use crate::cloud::tokens::chain;
use crate::model::Timestamp;
use crate::signing_keys::for_display;

/// Longest cookie of a sign-in that is looked at.
const LONGEST_COOKIE: usize = 200;

/// Most characters of what the issuer says to people.
const LONGEST_SAID: usize = 300;

fn issuer(desk: &Desk) -> Result<&Issuer, Failure> {
    desk.operators.issuer.as_ref().ok_or(Failure::NotFound)
}

/// Nobody was signed in, and why not.
fn not_signed_in(status: StatusCode, text: String) -> Failure {
    Failure::NotSignedIn(status, text)
}

/// To the issuer. A link and not a form: browsers would follow a form only to hosts that are known beforehand, and an issuer may send
/// people on to another.
pub async fn begin_at_issuer(State(desk): State<Arc<Desk>>, visit: Visit) -> Answer {
    let issuer = issuer(&desk)?;
    if visit.session.is_some() {
        return Ok(go("/"));
    }
    let now = desk.operations().now();
    let (to, cookie) = issuer
        .begin(now)
        .await
        .map_err(|e| outage(&desk, issuer, &e))?;
    Ok(with_cookie(
        go(to.as_str()),
        &desk.cookies.for_sign_in(&cookie),
    ))
}

fn outage(desk: &Desk, issuer: &Issuer, e: &OidcError) -> Failure {
    tracing::error!(error = %chain(e), "operators cannot sign in at the issuer");
    let text = Texts::fill(desk.texts.issuer.outage, issuer.host());
    not_signed_in(StatusCode::SERVICE_UNAVAILABLE, text)
}

/// Back from the issuer.
pub async fn callback(
    State(desk): State<Arc<Desk>>,
    visit: Visit,
    RawQuery(query): RawQuery,
    parts: Parts,
) -> Answer {
    let issuer = issuer(&desk)?;
    let jar = CookieJar::from_headers(&parts.headers);
    let cookie = jar.get(desk.cookies.sign_in).map(|c| c.value().to_owned());
    let address = Peer::of(&parts.extensions).network();
    let answer = returned(&desk, issuer, &visit, cookie.as_deref(), query, address).await;
    // Whatever came of it, this sign-in is over.
    Ok(with_cookie(
        answer.unwrap_or_else(axum::response::IntoResponse::into_response),
        &desk.cookies.end_sign_in(),
    ))
}

async fn returned(
    desk: &Desk,
    issuer: &Issuer,
    visit: &Visit,
    cookie: Option<&str>,
    query: Option<String>,
    address: IpAddr,
) -> Answer {
    let (now, t) = (desk.operations().now(), &desk.texts.issuer);
    // Counted before anybody is asked, and forgiven to whoever gets in.
    if let Some(wait) = desk.gate.wrong(address, now) {
        return Err(Failure::Wait(wait));
    }
    let brought: Option<Brought> = query.and_then(|q| serde_urlencoded::from_str(&q).ok());
    let cookie = cookie.filter(|cookie| cookie.len() <= LONGEST_COOKIE);
    let ours = brought.zip(cookie).and_then(|(brought, cookie)| {
        let begun = issuer.returned(cookie, &brought.state, now)?;
        Some((brought, begun))
    });
    let Some((brought, begun)) = ours else {
        tracing::warn!(peer.address = %address, "a browser came back from the issuer that had not been sent there, or not in time");
        return Err(not_signed_in(StatusCode::FORBIDDEN, t.over.into()));
    };
    if let Some(error) = &brought.error {
        let word = technical(error);
        tracing::warn!(peer.address = %address, error = word, "the issuer did not sign an operator in");
        let said = brought.error_description.as_deref().unwrap_or_default();
        let text = Texts::fill(t.refused, issuer.host());
        let text = format!("{} {}", Texts::fill(&text, word), said_to_people(said));
        return Err(not_signed_in(StatusCode::FORBIDDEN, text.trim().into()));
    }
    match issuer.finish(&begun, brought, now).await {
        Ok(person) => enter(desk, issuer, visit, person, address, now).await,
        Err(e) if e.is_outage() => Err(outage(desk, issuer, &e)),
        Err(e) => {
            tracing::warn!(peer.address = %address, error = %chain(&e), "what an operator brought back from the issuer was refused");
            let detail = format!("not accepted from {}: {}", issuer.host(), chain(&e));
            refused(desk, NOBODY, &format!("{detail}, from {address}"), now).await?;
            let text = Texts::fill(t.not_accepted, issuer.host());
            Err(not_signed_in(StatusCode::FORBIDDEN, text))
        }
    }
}

/// Somebody has proven who he is.
async fn enter(
    desk: &Desk,
    issuer: &Issuer,
    visit: &Visit,
    person: Person,
    address: IpAddr,
    now: Timestamp,
) -> Answer {
    let Some(role) = person.role else {
        tracing::warn!(peer.address = %address, "somebody has signed in at the issuer who is not to see these pages");
        let detail = format!(
            "subject {} at {} is neither operator nor viewer, from {address}",
            person.subject,
            issuer.host()
        );
        refused(desk, &person.name, &detail, now).await?;
        let text = Texts::fill(desk.texts.issuer.not_allowed, issuer.host());
        let text = Texts::fill(&text, &person.name);
        return Err(not_signed_in(StatusCode::FORBIDDEN, text));
    };
    desk.gate.forgive(address);
    let session = OperatorSession {
        operator: person.name,
        role,
        proof: issuer.proof(),
        created_at: now,
        used_at: now,
    };
    let detail = format!(
        "{}, subject {} at {}",
        role.as_str(),
        person.subject,
        issuer.host()
    );
    begin(desk, visit, session, &detail).await
}

/// What the issuer says to people: as text, without what cannot be seen, and not for ever.
fn said_to_people(said: &str) -> String {
    said.split_whitespace()
        .map(for_display)
        .collect::<Vec<_>>()
        .join(" ")
        .chars()
        .take(LONGEST_SAID)
        .collect()
}
