//! Simulated Microsoft Graph, version 1.0. `microsoft-graph.md`.
//!
//! Invariant: the tenant comes from the token and from nowhere else, so that nobody can ask about another tenant's people.

mod batch;
mod filter;
mod presence;
mod users;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, Method, Request};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::macros::format_description;
use uuid::Uuid;

use super::answer::{Answer, Payload};
use super::counts::Endpoint;
use super::faults::Fault;
use super::options::Limit;
use super::tenant::Cell;
use super::throttle::{Decision, Service};
use super::world::{AccessToken, Holder, Microsoft};

/// Most bytes of a request.
const MAX_REQUEST: usize = 4 << 20;

const JSON: &str = "application/json;odata.metadata=minimal;odata.streaming=true;IEEE754Compatible=false;charset=utf-8";

/// Who asks, once the token is accepted.
struct Caller {
    cell: Arc<Cell>,
    client: Uuid,
    token: AccessToken,
    /// Root of Graph's addresses, with the version.
    root: String,
}

impl Caller {
    /// Whether the token carries one of these permissions and the tenant still grants it.
    fn may(&self, permissions: &[&str]) -> bool {
        let Some(consent) = self.cell.consent(self.client) else {
            return false;
        };
        permissions.iter().any(|p| {
            let is = |granted: &String| granted.eq_ignore_ascii_case(p);
            match &self.token.holder {
                Holder::Application => {
                    self.token.roles.iter().any(is) && consent.application.iter().any(is)
                }
                Holder::Person(id, scopes) => scopes.iter().any(is) && consent.delegated_to(*id, p),
            }
        })
    }

    fn person(&self) -> Option<Uuid> {
        match &self.token.holder {
            Holder::Application => None,
            Holder::Person(id, _) => Some(*id),
        }
    }
}

/// One request to Graph, from outside or from inside a batch.
struct Call {
    method: Method,
    /// Below the version, still percent-encoded, without a leading slash.
    path: String,
    query: String,
    json: bool,
    body: Vec<u8>,
}

impl Call {
    fn endpoint(&self) -> Endpoint {
        let path = self.path.to_ascii_lowercase();
        match path.as_str() {
            "$batch" | "%24batch" => Endpoint::Batch,
            p if p.starts_with("communications/") || p.ends_with("/presence") => Endpoint::Presence,
            p if p == "users"
                || p.starts_with("users/")
                || p.starts_with("users(")
                || p == "me" =>
            {
                Endpoint::Users
            }
            _ => Endpoint::Other,
        }
    }
}

/// An error in Graph's envelope; ids and date are added on the way out.
fn error(status: u16, code: &str, message: impl Into<String>) -> Answer {
    Answer::json(
        status,
        json!({ "error": { "code": code, "message": message.into() } }),
    )
}

fn unauthorized(base: &str, message: &str, challenge: &str) -> Answer {
    error(401, "InvalidAuthenticationToken", message).with(
        "www-authenticate",
        format!(
            "Bearer realm=\"\", authorization_uri=\"{base}/common/oauth2/authorize\", \
             client_id=\"00000003-0000-0000-c000-000000000000\"{challenge}"
        ),
    )
}

fn not_found(path: &str) -> Answer {
    error(
        400,
        "BadRequest",
        format!("Resource not found for the segment '{path}'."),
    )
}

/// Serves everything under `/v1.0`.
pub async fn entry(
    State(microsoft): State<Microsoft>,
    request: Request<axum::body::Body>,
) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, MAX_REQUEST)
        .await
        .unwrap_or_default();
    let host = parts
        .headers
        .get(http::header::HOST)
        .and_then(|h| h.to_str().ok())
        .or_else(|| parts.uri.authority().map(http::uri::Authority::as_str));
    let base = microsoft.inner.base(host);
    let path = parts.uri.path();
    let content_type = parts.headers.get(http::header::CONTENT_TYPE);
    let call = Call {
        method: parts.method,
        path: path.strip_prefix("/v1.0/").unwrap_or(path).to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        json: content_type
            .and_then(|v| v.to_str().ok())
            .is_some_and(|v| v.to_ascii_lowercase().starts_with("application/json")),
        body: body.into(),
    };
    let (answer, faults) = microsoft.graph(&base, &parts.headers, &call);
    microsoft.finish(answer, &parts.headers).send(&faults).await
}

impl Microsoft {
    fn graph(&self, base: &str, headers: &HeaderMap, call: &Call) -> (Answer, Vec<Fault>) {
        let endpoint = call.endpoint();
        let (tenant, answer, faults) = match self.caller(base, headers) {
            Err(answer) => (None, answer, Vec::new()),
            Ok(caller) => {
                let tenant = Some(caller.cell.id);
                let ids = self.poison_candidates(endpoint, call);
                let faults = self
                    .inner
                    .state()
                    .faults
                    .hit(tenant, endpoint, None, |fault| match fault {
                        Fault::PoisonUser { id, .. } => ids.contains(id),
                        _ => true,
                    });
                let spoiled = faults.iter().find_map(|fault| spoil(fault, base));
                let answer = spoiled.unwrap_or_else(|| match self.too_much(&caller) {
                    Some(answer) => answer,
                    None => self.dispatch(&caller, endpoint, call, &faults),
                });
                (tenant, answer, faults)
            }
        };
        self.inner.count(endpoint, tenant, answer.status);
        (answer, faults)
    }

    /// The ids a presence request asks for.
    fn poison_candidates(&self, endpoint: Endpoint, call: &Call) -> Vec<Uuid> {
        if endpoint != Endpoint::Presence || self.inner.state().faults.active().is_empty() {
            return Vec::new();
        }
        let body: Value = serde_json::from_slice(&call.body).unwrap_or_default();
        let listed = body["ids"].as_array().into_iter().flatten();
        listed
            .filter_map(Value::as_str)
            .chain(call.path.split('/'))
            .filter_map(|id| Uuid::try_parse(id).ok())
            .collect()
    }

    /// Who sends this token, or why it is refused.
    fn caller(&self, base: &str, headers: &HeaderMap) -> Result<Caller, Answer> {
        let sent = headers
            .get(http::header::AUTHORIZATION)
            .and_then(|v| v.to_str().ok())
            .and_then(|v| v.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or_else(|| unauthorized(base, "Access token is empty.", ""))?;
        let token = self
            .inner
            .state()
            .access
            .get(sent)
            .cloned()
            .ok_or_else(|| {
                unauthorized(
                    base,
                    "CompactToken parsing failed with error code: 80049217",
                    "",
                )
            })?;
        if token.expires <= self.inner.clock.now() {
            return Err(expired(base));
        }
        let cell = self.inner.cell(token.tenant).ok_or_else(|| {
            unauthorized(
                base,
                "CompactToken validation failed with reason code: 80049228.",
                "",
            )
        })?;
        Ok(Caller {
            cell,
            client: token.client,
            token,
            root: format!("{base}/v1.0"),
        })
    }

    /// The limit over everything of one app.
    fn too_much(&self, caller: &Caller) -> Option<Answer> {
        let limit = self.inner.options.limits.global;
        match self.throttle(Service::Global(caller.client), 1, limit) {
            Decision::Pass(_) => None,
            Decision::Wait(wait, _) => Some(self.throttled(wait, true)),
        }
    }

    fn throttle(&self, service: Service, cost: u32, limit: Limit) -> Decision {
        let now = self.inner.clock.now();
        self.inner.state().throttle.check(service, cost, limit, now)
    }

    /// Answers one request, outside or inside a batch.
    fn dispatch(
        &self,
        caller: &Caller,
        endpoint: Endpoint,
        call: &Call,
        faults: &[Fault],
    ) -> Answer {
        let mut answer = match endpoint {
            Endpoint::Batch => self.batch(caller, call),
            Endpoint::Presence => self.presence(caller, call, faults),
            Endpoint::Users => self.users(caller, call),
            _ => not_found(call.path.split('/').next().unwrap_or_default()),
        };
        if let Payload::Json(list) = &mut answer.body
            && list["value"].is_array()
            && faults.contains(&Fault::EndlessPages)
        {
            list["@odata.nextLink"] = format!("{}/users?$top=1", caller.root).into();
        }
        answer
    }

    /// 429 with the documented body. `tell` sends `Retry-After`.
    fn throttled(&self, wait: Duration, tell: bool) -> Answer {
        let answer = too_many();
        // Whole seconds, rounded up, so that waiting as told is enough.
        let seconds = (wait.as_millis().div_ceil(1_000)).max(1);
        match (tell, self.inner.switches().retry_after_as_date) {
            (false, _) => answer,
            (true, false) => answer.with("retry-after", seconds.to_string()),
            (true, true) => {
                let at = self
                    .inner
                    .clock
                    .now()
                    .plus(wait)
                    .plus(Duration::from_millis(999));
                answer.with("retry-after", http_date(at))
            }
        }
    }

    /// Adds what every answer of Graph carries.
    fn finish(&self, mut answer: Answer, headers: &HeaderMap) -> Answer {
        let request_id = Uuid::new_v4().to_string();
        let echo = headers
            .get("client-request-id")
            .and_then(|v| v.to_str().ok())
            .unwrap_or(&request_id)
            .to_owned();
        let now = self.inner.clock.now();
        if let Payload::Json(body) = &mut answer.body {
            if let Some(error) = body.get_mut("error").and_then(Value::as_object_mut) {
                let zone = if self.inner.switches().error_date_has_zone {
                    "Z"
                } else {
                    ""
                };
                let date = OffsetDateTime::from_unix_timestamp(now.as_secs())
                    .ok()
                    .and_then(|t| {
                        t.format(format_description!(
                            "[year]-[month]-[day]T[hour]:[minute]:[second]"
                        ))
                        .ok()
                    });
                let inner = error.entry("innerError").or_insert_with(|| json!({}));
                inner["date"] = format!("{}{zone}", date.unwrap_or_default()).into();
                inner["request-id"] = request_id.clone().into();
                inner["client-request-id"] = echo.clone().into();
            } else {
                answer = answer
                    .with("odata-version", "4.0")
                    .with("content-type", JSON);
            }
        }
        answer
            .with("cache-control", "no-cache")
            .with("request-id", request_id)
            .with("client-request-id", echo)
            .with("date", http_date(now))
            .with("strict-transport-security", "max-age=31536000")
            .with(
                "x-ms-ags-diagnostic",
                r#"{"ServerInfo":{"DataCenter":"West Europe","Slice":"E","Ring":"5","ScaleUnit":"001","RoleInstance":"SIM0PEPF00000001"}}"#,
            )
    }

    fn limits_of_users(&self, caller: &Caller) -> Limit {
        let people = caller.cell.directory().len();
        self.inner.options.limits.users.unwrap_or(match people {
            0..50 => Limit::new(3_500, 10),
            50..=500 => Limit::new(5_000, 10),
            _ => Limit::new(8_000, 10),
        })
    }
}

fn expired(base: &str) -> Answer {
    unauthorized(
        base,
        "Lifetime validation failed, the token is expired.",
        "",
    )
}

fn too_many() -> Answer {
    Answer::json(
        429,
        json!({ "error": {
            "code": "TooManyRequests",
            "innerError": { "code": "429", "message": "Please retry after", "status": "429" },
            "message": "Please retry again later.",
        } }),
    )
}

/// What a fault answers in place of Graph, if it does.
fn spoil(fault: &Fault, base: &str) -> Option<Answer> {
    Some(match fault {
        Fault::Throttle { retry_after } => too_many().retry_after(Some(*retry_after)),
        Fault::ThrottleNoRetryAfter => too_many(),
        Fault::Unavailable { retry_after } => error(
            503,
            "serviceNotAvailable",
            "The service is temporarily unavailable.",
        )
        .retry_after(*retry_after),
        Fault::ServerError => error(
            500,
            "InternalServerError",
            "An internal server error occurred.",
        ),
        Fault::TokenExpired => expired(base),
        Fault::ClaimsChallenge => {
            use base64::Engine as _;
            let claims = base64::engine::general_purpose::STANDARD
                .encode(r#"{"access_token":{"nbf":{"essential":true,"value":"1795478400"}}}"#);
            unauthorized(
                base,
                "Continuous access evaluation resulted in challenge with result: InteractionRequired and code: TokenIssuedBeforeRevocationTimestamp",
                &format!(", error=\"insufficient_claims\", claims=\"{claims}\""),
            )
        }
        Fault::Flapping401 => error(401, "Unauthorized", "Unauthorized"),
        Fault::ConsentWithdrawn | Fault::Forbidden => denied(),
        Fault::PoisonUser { status, .. } if *status >= 500 => error(
            *status,
            "InternalServerError",
            "An internal server error occurred.",
        ),
        Fault::PoisonUser { status, .. } => error(*status, "BadRequest", ""),
        other => return Answer::instead(other),
    })
}

fn denied() -> Answer {
    error(
        403,
        "Authorization_RequestDenied",
        "Insufficient privileges to complete the operation.",
    )
}

fn http_date(at: crate::model::Timestamp) -> String {
    let secs = u64::try_from(at.as_secs()).unwrap_or(0);
    httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_secs(secs))
}
