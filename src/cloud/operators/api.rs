//! The admin API: what operators see and do, for programs. Described in `docs/admin-api.yaml`, which it serves itself.
//!
//! Invariants: nobody is believed but by a token in `Authorization`; no cookie is looked at, so no browser can be made to ask
//! anything; a stranger learns nothing, not even which addresses there are; a viewer's token changes nothing (`caller::Acting`);
//! whatever is asked, the answer is the value or a problem, with the security headers, and kept by nobody.

mod ask;
mod caller;
pub mod local;
mod problem;
mod see;
mod tell;

pub use problem::ProblemBody;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use http::{HeaderName, HeaderValue, StatusCode, header};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;

use super::Operators;
use super::password::Gate;
use crate::cloud::operations::Operations;
use crate::secret::random_token;
use local::Seen;
use problem::Problem;

/// Where it begins on the operators' listener.
pub const BASE: &str = "/api/v1";

/// Longest time for an answer: off-boarding waits for readers of the database.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Refused tokens entered into the audit log per minute; nobody may fill it.
const REFUSED_PER_MINUTE: std::num::NonZeroU32 = std::num::NonZeroU32::new(6).unwrap();

/// Reads of the key file a second on behalf of addresses that have to wait. Not none: who has the key shares an address with
/// whoever else is on the machine.
const KEY_LOOKS: std::num::NonZeroU32 = std::num::NonZeroU32::new(5).unwrap();

/// Reads of the database a second on behalf of such: who has a right token may share an address with who guesses.
const TOKEN_LOOKS: std::num::NonZeroU32 = std::num::NonZeroU32::new(100).unwrap();

/// The description of all this.
pub const DESCRIPTION: &str = include_str!("../../../docs/admin-api.yaml");

/// Everything the admin API needs.
pub struct AdminApi {
    operators: Arc<Operators>,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Who has sent wrong tokens.
    gate: Gate,
    /// Which refused tokens are entered into the audit log.
    refusals: DefaultDirectRateLimiter,
    /// Proofs of the command line that were used.
    seen: Seen,
    /// Which start of the service this is: no proof made for another is good.
    start: String,
    /// Reads of the key file for addresses that have to wait.
    looks_at_keys: DefaultDirectRateLimiter,
    /// Reads of the database for such.
    looks_at_tokens: DefaultDirectRateLimiter,
}

type Routes = Vec<(&'static str, MethodRouter<Arc<AdminApi>>)>;

/// What needs a token.
fn guarded() -> Routes {
    vec![
        ("/me", get(see::me)),
        ("/overview", get(see::overview)),
        ("/tenants", get(see::tenants)),
        ("/tenants/{tenant}", get(see::tenant)),
        ("/tenants/{tenant}/suites", get(see::suites_of)),
        ("/tenants/{tenant}/pause", post(tell::pause)),
        ("/tenants/{tenant}/resume", post(tell::resume)),
        ("/tenants/{tenant}/refresh", post(tell::refresh)),
        ("/tenants/{tenant}/link", post(tell::link)),
        ("/tenants/{tenant}/send-link", post(tell::send_link)),
        ("/tenants/{tenant}/invite", post(tell::invite)),
        ("/tenants/{tenant}/offboard", post(tell::offboard)),
        ("/suites", get(see::suites)),
        ("/suites/{suite}/revoke", post(tell::revoke)),
        ("/alerts", get(see::alerts)),
        ("/alerts/test", post(tell::test_alerts)),
        ("/audit", get(see::audit)),
        ("/audit/export", post(tell::export)),
        ("/credentials", get(see::credentials)),
        (
            "/api-tokens",
            get(see::api_tokens).post(tell::make_api_token),
        ),
        ("/api-tokens/{name}", delete(tell::revoke_api_token)),
    ]
}

/// Every path below [`BASE`], for the test that holds them against the description.
pub fn paths() -> Vec<&'static str> {
    let mut paths: Vec<_> = guarded().into_iter().map(|(path, _)| path).collect();
    paths.push("/openapi.yaml");
    paths
}

impl AdminApi {
    /// Of this listener.
    pub fn new(operators: Arc<Operators>) -> Arc<Self> {
        let secure = operators.config.public_url.scheme() == "https";
        let fixed = |name, value| (name, HeaderValue::from_static(value));
        let mut headers = vec![
            fixed(
                header::CONTENT_SECURITY_POLICY,
                "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
            ),
            fixed(header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            fixed(header::X_FRAME_OPTIONS, "DENY"),
            fixed(header::REFERRER_POLICY, "no-referrer"),
            fixed(
                HeaderName::from_static("cross-origin-resource-policy"),
                "same-origin",
            ),
            fixed(header::CACHE_CONTROL, "no-store"),
        ];
        if secure {
            headers.push(fixed(header::STRICT_TRANSPORT_SECURITY, "max-age=31536000"));
        }
        Arc::new(Self {
            operators,
            headers,
            gate: Gate::default(),
            refusals: RateLimiter::direct(Quota::per_minute(REFUSED_PER_MINUTE)),
            seen: Seen::default(),
            start: random_token(),
            looks_at_keys: RateLimiter::direct(Quota::per_second(KEY_LOOKS)),
            looks_at_tokens: RateLimiter::direct(Quota::per_second(TOKEN_LOOKS)),
        })
    }

    fn operations(&self) -> &Operations {
        &self.operators.operations
    }

    /// All addresses there are, to be nested under `/api`.
    pub fn router(self: &Arc<Self>) -> Router {
        let mut known = Router::new();
        for (path, methods) in guarded() {
            known = known.route(&format!("/v1{path}"), methods);
        }
        let known = known
            .fallback(async || Problem::NoSuchAddress)
            .method_not_allowed_fallback(async || Problem::MethodNotAllowed)
            .layer(from_fn_with_state(Arc::clone(self), caller::let_in));
        // The same for everybody, and known to everybody: whoever makes a client needs it before he has a token.
        let open = Router::new()
            .route("/v1/openapi.yaml", get(see::description))
            .method_not_allowed_fallback(async || Problem::MethodNotAllowed);
        known
            .merge(open)
            .layer(TimeoutLayer::with_status_code(
                StatusCode::GATEWAY_TIMEOUT,
                TIMEOUT,
            ))
            .layer(CatchPanicLayer::custom(|_| {
                Problem::Ours("a request of the admin API panicked".into()).into_response()
            }))
            .layer(from_fn_with_state(Arc::clone(self), finish))
            .with_state(Arc::clone(self))
    }
}

/// Gives every answer its headers.
async fn finish(State(api): State<Arc<AdminApi>>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if response.status() == StatusCode::GATEWAY_TIMEOUT {
        response = Problem::TooSlow.into_response();
    }
    if response.status() == StatusCode::UNAUTHORIZED
        && let Ok(start) = HeaderValue::from_str(&api.start)
    {
        response.headers_mut().insert(local::START, start);
    }
    for (name, value) in &api.headers {
        if !response.headers().contains_key(name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}
