//! What is said when something was not done: RFC 9457, one table.

use std::borrow::Cow;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};

use crate::cloud::operations::OperationError;
use crate::cloud::store::StoreError;
use crate::cloud::tokens::chain;

/// What problems are called besides their code.
const TYPE: &str = "urn:presence-bridge:problem:";

/// Why there is no answer. Nothing was changed.
#[derive(Debug)]
pub enum Problem {
    /// No token, or none that is good: nobody is told which.
    NotSignedIn,
    /// Too many wrong tokens from that address.
    TooManyTries(Duration),
    /// Only operators act.
    OnlyOperators,
    /// No such path.
    NoSuchAddress,
    /// Not with that method.
    MethodNotAllowed,
    /// The caller takes nothing that we could send: what we would.
    NotAcceptable(&'static str),
    /// The body is no JSON by its own word.
    NotJson,
    /// The body is too long.
    BodyTooLarge,
    /// The body did not come.
    BodyTooSlow,
    /// What is wrong with the body.
    BadBody(String),
    /// What is wrong with the query.
    BadQuery(String),
    /// Of which kind the id in the path should be.
    BadId(&'static str),
    /// It was not done, and why.
    Refused(OperationError),
    /// More than fits into one answer.
    TooMuch,
    /// It took too long.
    TooSlow,
    /// An error of ours.
    Ours(String),
}

impl From<StoreError> for Problem {
    fn from(e: StoreError) -> Self {
        Self::Ours(chain(&e))
    }
}

impl From<OperationError> for Problem {
    fn from(e: OperationError) -> Self {
        match e {
            OperationError::Store(e) => e.into(),
            refused => Self::Refused(refused),
        }
    }
}

/// A problem as it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemBody {
    /// Stands for the kind of problem, and never changes.
    #[serde(rename = "type")]
    pub kind: Cow<'static, str>,
    /// The same in a word.
    pub code: Cow<'static, str>,
    /// The same for people.
    pub title: Cow<'static, str>,
    /// The status of the answer.
    pub status: u16,
    /// What was wrong this time, and what to do.
    pub detail: String,
}

impl OperationError {
    /// The status it is answered with, the word for it that never changes, and a title.
    pub fn in_a_word(&self) -> (u16, &'static str, &'static str) {
        match self {
            Self::NoTenant(_) => (404, "no-such-tenant", "There is no such tenant"),
            Self::NoSuite(_) => (404, "no-such-suite", "There is no such suite"),
            Self::NoToken(_) => (404, "no-such-token", "There is no such token"),
            Self::Gone(_) => (409, "off-boarded", "The tenant was off-boarded"),
            Self::Paused(_) => (409, "paused", "The tenant is paused"),
            Self::NoPages => (409, "no-pages", "There are no pages"),
            Self::NotConfirmed(_) => (409, "not-confirmed", "It was not confirmed"),
            Self::NameTaken(_) => (409, "name-taken", "The name is taken"),
            Self::BadName => (400, "bad-name", "That cannot be a name"),
            Self::NoMail => (409, "no-mail", "No mail can be sent"),
            Self::NoAddress => (400, "bad-address", "That is not an address"),
            Self::Mail(_) => (502, "mail-not-sent", "The mail was not sent"),
            Self::Store(_) => (500, "internal", "An error of ours"),
        }
    }
}

impl Problem {
    fn text(self) -> (u16, &'static str, &'static str, String) {
        let say = |status, code, title, detail: &str| (status, code, title, detail.to_owned());
        match self {
            Self::NotSignedIn => say(
                401,
                "not-signed-in",
                "Not signed in",
                "Send a token that is good, as Authorization: Bearer … An operator makes one with: presence-cloud api-token make",
            ),
            Self::TooManyTries(wait) => (
                429,
                "too-many-tries",
                "Too many wrong tokens",
                format!(
                    "Wrong tokens came from this address. Try again in {} s, with the right one.",
                    wait.as_secs().max(1)
                ),
            ),
            Self::OnlyOperators => say(
                403,
                "only-operators",
                "A viewer cannot do this",
                "This token may look and not act. Use one with the role operator.",
            ),
            Self::NoSuchAddress => say(
                404,
                "no-such-address",
                "There is no such address",
                "What there is stands in /api/v1/openapi.yaml",
            ),
            Self::MethodNotAllowed => say(
                405,
                "method-not-allowed",
                "Not with this method",
                "The header Allow says with which; more stands in /api/v1/openapi.yaml",
            ),
            Self::NotAcceptable(ours) => (
                406,
                "not-acceptable",
                "You do not accept what there is",
                format!("This is answered with {ours}: name that in Accept, or leave Accept out."),
            ),
            Self::NotJson => say(
                415,
                "not-json",
                "The body is not JSON",
                "Send Content-Type: application/json, in UTF-8.",
            ),
            Self::BodyTooLarge => say(
                413,
                "body-too-large",
                "The body is too large",
                "A body has at most 16 KiB.",
            ),
            Self::BodyTooSlow => say(
                408,
                "body-too-slow",
                "The body did not come",
                "A body has to be there within 10 seconds; send it again.",
            ),
            Self::BadBody(detail) => (400, "bad-body", "The body is not as described", detail),
            Self::BadQuery(detail) => (400, "bad-query", "The query is not as described", detail),
            Self::BadId(what) => (400, "bad-id", "That is no id", format!("{what}.")),
            Self::Refused(e) => {
                let (status, code, title) = e.in_a_word();
                let mut detail = chain(&e);
                if let Some(first) = detail.get_mut(0..1) {
                    first.make_ascii_uppercase();
                }
                (status, code, title, detail + ".")
            }
            Self::TooMuch => say(
                409,
                "too-much",
                "Too much for one answer",
                "Export the audit log tenant by tenant.",
            ),
            Self::TooSlow => say(
                504,
                "too-slow",
                "It took too long",
                "Look whether it was done before you try again.",
            ),
            Self::Ours(error) => {
                tracing::error!(%error, "a request of the admin API failed");
                say(
                    500,
                    "internal",
                    "An error of ours",
                    "The log says more, under the id in the header x-request-id.",
                )
            }
        }
    }
}

impl From<Problem> for ProblemBody {
    fn from(problem: Problem) -> Self {
        let (status, code, title, detail) = problem.text();
        Self {
            kind: format!("{TYPE}{code}").into(),
            code: code.into(),
            title: title.into(),
            status,
            detail,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let wait = match &self {
            Self::TooManyTries(wait) => Some(wait.as_secs().max(1)),
            _ => None,
        };
        let body = ProblemBody::from(self);
        let text = serde_json::to_string(&body).unwrap_or_default();
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        let status = StatusCode::from_u16(body.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, kind, text).into_response();
        let headers = response.headers_mut();
        if status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"presence-cloud\"");
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Some(seconds) = wait {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
