//! The pages: customers connect their organisation, and see how it is. Server-rendered; they work without JavaScript.
//!
//! Invariants: every answer has the security headers; every form comes from our own page (`session::Posted`); a browser sees a
//! tenant only by a verified sign-in of the account that authorized it or by a secret link; addresses to go to are an enum, never
//! input. What the steps do is in [`super::onboarding`]; here they are asked for and shown.

pub(super) mod limits;
mod onboarding;
mod outcome;
pub(super) mod pages;
pub(super) mod session;
mod status;
pub(super) mod texts;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::Router;
use axum::extract::{Path, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum_extra::extract::cookie::Cookie;
use futures_util::FutureExt as _;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use rust_embed::RustEmbed;
use tokio::sync::oneshot;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;
use url::Url;

use super::listener::{Peer, admit};
use super::metrics::Metrics;
use super::onboarding::{Onboardings, Trouble};
use super::requests::{self, Observed};
use super::store::{Store, StoreError};
use super::tenants::Tenants;
use super::tokens::chain;
use crate::clock::Clock;
use crate::config::cloud::WebConfig;
use limits::Limits;
use outcome::{Kind, Outcome};
use pages::{Common, OutcomePage, Shown};
use session::{AGE, CookieNames, IDLE, Visit};
use texts::{ENGLISH, Texts};

/// Longest time for an answer; a sign-in asks Microsoft up to four times. `security-and-faults.md` §2.
const TIMEOUT: Duration = Duration::from_secs(45);

/// How often what has expired is forgotten.
const TIDY: Duration = Duration::from_mins(10);

#[derive(RustEmbed)]
#[folder = "onboarding-web/assets"]
struct Assets;

/// Everything the pages need.
pub struct Web {
    config: WebConfig,
    /// Where suites connect, as shown in commands.
    suites_url: Url,
    client_id: uuid::Uuid,
    store: Store,
    onboardings: Onboardings,
    tenants: Arc<Tenants>,
    metrics: Arc<Metrics>,
    clock: Clock,
    limits: Limits,
    cookies: CookieNames,
    /// Ours, as browsers send it with forms.
    origin: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    simulated: bool,
    texts: &'static Texts,
}

/// Why a page is not shown. The page about it is made by `finish`, which knows everything pages need.
pub enum Failure {
    /// One of the table.
    Kind(Kind),
    /// One of the table with its details.
    Outcome(Outcome),
    /// An error of ours.
    Ours(String),
}

impl From<StoreError> for Failure {
    fn from(e: StoreError) -> Self {
        Self::Ours(chain(&e))
    }
}

impl From<Trouble> for Failure {
    fn from(e: Trouble) -> Self {
        Self::Ours(chain(&e))
    }
}

#[derive(Clone)]
struct ToShow(Result<Outcome, Kind>);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let to_show = match self {
            Self::Kind(kind) => Err(kind),
            Self::Outcome(outcome) => Ok(outcome),
            Self::Ours(error) => {
                tracing::error!(%error, "a page failed");
                Err(Kind::Internal)
            }
        };
        let mut response = Response::default();
        response.extensions_mut().insert(ToShow(to_show));
        response
    }
}

type Answer = Result<Response, Failure>;

/// A page.
fn page(template: &impl Template) -> Response {
    match template.render() {
        Ok(html) => axum::response::Html(html).into_response(),
        Err(e) => Failure::Ours(e.to_string()).into_response(),
    }
}

/// To one of our own pages, or to Microsoft: after a form always with GET.
fn go(to: &str) -> Response {
    let mut response = StatusCode::SEE_OTHER.into_response();
    let to = HeaderValue::from_str(to).unwrap_or(HeaderValue::from_static("/"));
    response.headers_mut().insert(header::LOCATION, to);
    response
}

fn with_cookie(mut response: Response, cookie: &Cookie<'_>) -> Response {
    if let Ok(value) = HeaderValue::from_str(&cookie.to_string()) {
        response.headers_mut().append(header::SET_COOKIE, value);
    }
    response
}

impl Web {
    /// The pages of a cloud. `simulated` says so on every page.
    pub fn new(
        config: WebConfig,
        suites_url: Url,
        client_id: uuid::Uuid,
        login_url: &Url,
        onboardings: Onboardings,
        tenants: Arc<Tenants>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let secure = config.public_url.scheme() == "https";
        let origin = config.public_url.origin().ascii_serialization();
        let login = login_url.origin().ascii_serialization();
        Arc::new(Self {
            limits: Limits::new(config.sign_ins_per_minute),
            cookies: CookieNames::new(secure),
            headers: security_headers(&login, secure),
            store: onboardings.store.clone(),
            clock: onboardings.clock.clone(),
            simulated: login_url.scheme() != "https",
            texts: &ENGLISH,
            config,
            suites_url,
            client_id,
            onboardings,
            tenants,
            metrics,
            origin,
        })
    }

    /// All addresses there are.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/", get(onboarding::start).post(onboarding::begin))
            .route(
                "/connection",
                get(onboarding::choice).post(onboarding::choose),
            )
            .route(
                "/authorize",
                get(onboarding::authorize).post(onboarding::send_away),
            )
            .route("/callback", get(onboarding::callback))
            .route(
                "/complete",
                get(onboarding::completed).post(onboarding::complete),
            )
            .route("/outcome", get(onboarding::outcome))
            .route("/for/{token}", get(onboarding::forwarded))
            .route("/s/{token}", get(status::by_link))
            .route("/status", get(status::status))
            .route("/status/suites", get(status::back).post(status::add_suite))
            .route("/status/again", get(status::back).post(status::again))
            .route("/status/link", get(status::back).post(status::new_link))
            .route(
                "/status/disconnect",
                get(status::before_disconnect).post(status::disconnect),
            )
            .route("/sign-in", get(status::back).post(status::sign_in))
            .route("/sign-out", post(status::sign_out))
            .route("/assets/{file}", get(asset))
            .fallback(async || Failure::Kind(Kind::NotFound))
            .method_not_allowed_fallback(async || Failure::Kind(Kind::NotFound))
            .layer(axum::middleware::from_fn_with_state(
                Arc::clone(self),
                to_the_end,
            ))
            .layer(TimeoutLayer::with_status_code(
                StatusCode::GATEWAY_TIMEOUT,
                TIMEOUT,
            ))
            .layer(axum::middleware::from_fn_with_state(
                Arc::clone(self),
                limit,
            ))
            .layer(CatchPanicLayer::custom(|_| {
                Failure::Ours("a page panicked".into()).into_response()
            }))
            .layer(axum::middleware::from_fn_with_state(
                Arc::clone(self),
                finish,
            ))
            .layer(axum::middleware::from_fn_with_state(
                Observed {
                    metrics: Arc::clone(&self.metrics),
                    listener: "web",
                    ids_from_outside: false,
                },
                requests::observe,
            ))
            .with_state(Arc::clone(self))
    }

    /// Forgets what has expired, for ever.
    pub async fn tidy_for_ever(self: Arc<Self>) {
        loop {
            tokio::time::sleep(TIDY).await;
            self.limits.tidy();
            let now = self.clock.now();
            match self
                .store
                .forget_expired(now, now.minus(IDLE), now.minus(AGE))
                .await
            {
                Ok(0) => {}
                Ok(rows) => tracing::debug!(rows, "expired sessions and requests forgotten"),
                Err(e) => tracing::error!(error = %chain(&e), "what has expired was not forgotten"),
            }
        }
    }

    fn common(&self, visit: Option<&Visit>) -> Common {
        Common {
            t: self.texts,
            service: self.config.service_name.clone(),
            support: self.config.support.clone(),
            csrf: visit.map(Visit::csrf).unwrap_or_default(),
            simulated: self.simulated,
        }
    }

    /// Shows an outcome on a page of its own, after a redirect, so that codes leave the address bar and reloading repeats nothing.
    async fn tell(&self, visit: &mut Visit, outcome: Outcome) -> Answer {
        tracing::info!(
            outcome = outcome.kind.name(),
            microsoft.code = outcome.code,
            microsoft.correlation_id = outcome.correlation,
            "an onboarding step did not go on"
        );
        let name = visit.hash();
        let Some(session) = &mut visit.session else {
            return Err(Failure::Outcome(outcome));
        };
        let told = serde_json::to_string(&outcome).unwrap_or_default();
        if !self.store.tell_web_session(name, &told).await? {
            return Err(Failure::Outcome(outcome));
        }
        session.outcome = Some(told);
        Ok(go("/outcome"))
    }

    fn link(&self, path: &str) -> String {
        format!("{}{path}", self.origin)
    }
}

/// `security-and-faults.md` §4. Forms may lead to those who sign people in, because ours are answered by a redirect there.
pub(super) fn security_headers(login_origin: &str, secure: bool) -> Vec<(HeaderName, HeaderValue)> {
    let csp = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
         form-action 'self' {login_origin}; frame-ancestors 'none'; base-uri 'none'"
    );
    let mut headers = vec![
        (
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_str(&csp).expect("an origin is ASCII"),
        ),
        (
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ),
        (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
        // Not "no-referrer", as the reference has it: with that, browsers send `Origin: null` with forms, also to ourselves, and
        // nothing would be left to tell our own forms by. To others no address is told with this either.
        (
            header::REFERRER_POLICY,
            HeaderValue::from_static("same-origin"),
        ),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            HeaderValue::from_static("same-origin"),
        ),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    if secure {
        headers.push((
            header::STRICT_TRANSPORT_SECURITY,
            HeaderValue::from_static("max-age=31536000"),
        ));
    }
    headers
}

/// What a request costs whoever sends it.
#[derive(Debug, PartialEq, Eq)]
enum Cost {
    Nothing,
    Begins,
    ComesBack,
}

/// Secret links count by any method: HEAD is answered as GET is, and begins a session too.
fn costs(method: &Method, path: &str) -> Cost {
    match path {
        "/callback" => Cost::ComesBack,
        "/" | "/authorize" | "/sign-in" | "/status/again" | "/status/suites" | "/status/link"
            if *method == Method::POST =>
        {
            Cost::Begins
        }
        _ if path.starts_with("/for/") || path.starts_with("/s/") => Cost::Begins,
        _ => Cost::Nothing,
    }
}

/// Counts what costs something, by the browser's address.
async fn limit(State(web): State<Arc<Web>>, request: Request, next: Next) -> Response {
    let budget = match costs(request.method(), request.uri().path()) {
        Cost::Nothing => None,
        Cost::Begins => Some(&web.limits.begin),
        Cost::ComesBack => Some(&web.limits.callback),
    };
    if budget.is_some_and(|budget| !budget.allows(Peer::of(request.extensions()))) {
        // Not which path: in some there is a secret.
        tracing::debug!("too many sign-ins from one address");
        let mut response = Failure::Kind(Kind::TooMany).into_response();
        let wait = HeaderValue::from_static("60");
        response.headers_mut().insert(header::RETRY_AFTER, wait);
        return response;
    }
    // Pages are for everybody; what costs something is counted above.
    admit(request.extensions());
    next.run(request).await
}

/// What changes something runs to its end, also when nobody waits for the answer any more. `security-and-faults.md` §6.
async fn to_the_end(State(web): State<Arc<Web>>, request: Request, next: Next) -> Response {
    let (method, path) = (request.method(), request.uri().path());
    if *method != Method::POST && costs(method, path) == Cost::Nothing {
        return next.run(request).await;
    }
    let (tell, told) = oneshot::channel();
    let work = AssertUnwindSafe(next.run(request)).catch_unwind();
    web.tenants.supervisor().run_once("page", async move {
        let _ = tell.send(work.await);
    });
    match told.await {
        Ok(Ok(response)) => response,
        Ok(Err(panic)) => std::panic::resume_unwind(panic),
        Err(_) => Failure::Ours("a page was stopped".into()).into_response(),
    }
}

/// Gives every answer its headers, and failures their page.
async fn finish(State(web): State<Arc<Web>>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let late = response.status() == StatusCode::GATEWAY_TIMEOUT;
    let to_show = match response.extensions_mut().remove::<ToShow>() {
        Some(ToShow(to_show)) => Some(to_show),
        None => late.then_some(Err(Kind::Down)),
    };
    if let Some(to_show) = to_show {
        let outcome = to_show.unwrap_or_else(|kind| Outcome::plain(kind, "", web.clock.now()));
        let status = match outcome.kind.row(web.texts).status {
            StatusCode::OK if late => StatusCode::GATEWAY_TIMEOUT,
            StatusCode::OK => StatusCode::BAD_REQUEST,
            status => status,
        };
        let mut shown = page(&OutcomePage {
            o: Shown::new(&outcome, web.texts),
            c: web.common(None),
        });
        *shown.status_mut() = status;
        for (name, value) in response.headers() {
            if *name != header::CONTENT_TYPE && *name != header::CONTENT_LENGTH {
                shown.headers_mut().append(name, value.clone());
            }
        }
        response = shown;
    }
    for (name, value) in &web.headers {
        if !response.headers().contains_key(name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

async fn asset(Path(file): Path<String>) -> Answer {
    let found = Assets::get(&file).ok_or(Failure::Kind(Kind::NotFound))?;
    let kind = found.metadata.mimetype().to_owned();
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "public, max-age=300".to_owned()),
    ];
    Ok((headers, found.data.into_owned()).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_something_costs_by_whatever_method_it_is_reached() {
        for method in [Method::GET, Method::HEAD, Method::POST] {
            for path in ["/s/abc", "/for/abc"] {
                assert_eq!(costs(&method, path), Cost::Begins, "{method} {path}");
            }
            assert_eq!(costs(&method, "/callback"), Cost::ComesBack);
        }
        for path in [
            "/",
            "/authorize",
            "/sign-in",
            "/status/again",
            "/status/suites",
            "/status/link",
        ] {
            assert_eq!(costs(&Method::POST, path), Cost::Begins, "{path}");
            assert_eq!(
                costs(&Method::GET, path),
                Cost::Nothing,
                "looking is free: {path}"
            );
        }
    }
}
