//! What is asked, read strictly: what is not described is not guessed at.

use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use http::request::Parts;
use http::{HeaderMap, header};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use uuid::Uuid;

use super::problem::Problem;
use crate::cloud::web::session::READ_FORM;

/// What values are sent as.
pub const JSON: &str = "application/json";

/// What exports are sent as.
pub const NDJSON: &str = "application/x-ndjson";

/// What the description is sent as: RFC 9512.
pub const YAML: &str = "application/yaml";

/// Most bytes of a body: many times what anything here needs.
const MOST_BYTES: usize = 16 << 10;

/// Whether the caller takes what we would send. Who says nothing takes everything.
pub fn accepts(headers: &HeaderMap, kind: &str) -> bool {
    let (major, _) = kind.split_once('/').unwrap_or((kind, ""));
    let mut says_nothing = true;
    for value in headers.get_all(header::ACCEPT) {
        for range in value.to_str().unwrap_or("?").split(',') {
            let mut parts = range.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default().to_ascii_lowercase();
            says_nothing &= name.is_empty();
            let refused = parts.any(|p| {
                let quality = p.strip_prefix("q=").and_then(|q| q.parse::<f32>().ok());
                quality.is_some_and(|q| q <= 0.0)
            });
            let fits = name == kind || name == "*/*" || name.strip_suffix("/*") == Some(major);
            if fits && !refused {
                return true;
            }
        }
    }
    says_nothing
}

/// No parameters, no fields.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// A whole number that may be left out, and is not `null` if it is there. In JSON `7.0` is one.
pub fn whole<'de, D: Deserializer<'de>>(value: D) -> Result<Option<u32>, D::Error> {
    let number = serde_json::Number::deserialize(value)?;
    let float = |f: &f64| f.fract() == 0.0;
    let text = match number.as_f64().filter(float) {
        Some(f) if !number.is_u64() => format!("{f:.0}"),
        _ => number.to_string(),
    };
    let refused = || D::Error::custom(format!("a whole number is expected, not {number}"));
    text.parse().map(Some).map_err(|_| refused())
}

/// The query, of which nothing may be left over.
pub struct Asked<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let read = Query::<T>::try_from_uri(&parts.uri);
        let said = |e: QueryRejection| {
            let cause = std::error::Error::source(&e).and_then(std::error::Error::source);
            cause.map_or_else(|| e.body_text(), ToString::to_string)
        };
        match read {
            Ok(Query(query)) => Ok(Self(query)),
            Err(e) => Err(Problem::BadQuery(format!("{}.", said(e)))),
        }
    }
}

/// The last id of the path.
pub struct Id(pub Uuid);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        const WHAT: &str =
            "An id is a UUID as it is listed, for example 22222222-2222-4222-8222-222222222222";
        let Ok(Path(text)) = Path::<String>::from_request_parts(parts, state).await else {
            return Err(Problem::BadId(WHAT));
        };
        match Uuid::try_parse(&text) {
            Ok(id) if text.len() == 36 => Ok(Self(id)),
            _ => Err(Problem::BadId(WHAT)),
        }
    }
}

/// The name of a token in the path.
pub struct Name(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        path.map(|Path(name)| Self(name))
            .map_err(|_| Problem::BadId("The name of a token has letters, digits, '.', '-', '_'"))
    }
}

/// A body that is not too large and comes in time.
pub async fn whole_body(body: axum::body::Body) -> Result<Bytes, Problem> {
    let read = axum::body::to_bytes(body, MOST_BYTES);
    let read = tokio::time::timeout(READ_FORM, read).await;
    let body = read.map_err(|_| Problem::BodyTooSlow)?;
    body.map_err(|_| Problem::BodyTooLarge)
}

/// The body, of which nothing may be left over. No body at all is an empty object.
pub struct Body<T>(pub T);

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE);
    let mut parts = value
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default()
        .split(';')
        .map(|part| part.trim().to_ascii_lowercase());
    parts.next().as_deref() == Some(JSON)
        && parts.all(|p| {
            p.strip_prefix("charset=")
                .is_none_or(|c| c.trim_matches('"') == "utf-8")
        })
}

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let (mut parts, body) = request.into_parts();
        Asked::<Nothing>::from_request_parts(&mut parts, state).await?;
        let has_type = parts.headers.contains_key(header::CONTENT_TYPE);
        if has_type && !is_json(&parts.headers) {
            return Err(Problem::NotJson);
        }
        let body = whole_body(body).await?;
        if !body.is_empty() && !has_type {
            return Err(Problem::NotJson);
        }
        let text: &[u8] = if body.is_empty() { b"{}" } else { &body };
        // Serde takes an array for a struct as well; nobody else does.
        if text.trim_ascii_start().first() != Some(&b'{') {
            return Err(Problem::BadBody("It is a JSON object.".into()));
        }
        serde_json::from_slice(text)
            .map(Self)
            .map_err(|e| Problem::BadBody(format!("{e}.")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_what_the_caller_takes() {
        for (accept, takes) in [
            ("", true),
            ("*/*", true),
            ("application/*;q=0.5", true),
            ("text/html, application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/json;q=0", false),
            ("text/html", false),
            ("text/*, image/png", false),
            ("application/jsonx", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            assert_eq!(accepts(&headers, JSON), takes, "{accept:?}");
        }
        assert!(accepts(&HeaderMap::new(), JSON));
    }
}
