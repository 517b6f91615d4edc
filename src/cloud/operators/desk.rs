//! Where operators' browsers are served: who they are, what they may do, and how every answer looks.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::Router;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request, State};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum_extra::extract::cookie::{Cookie, CookieJar};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use rust_embed::RustEmbed;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;

use super::Operators;
use super::password::{Gate, Stored};
use super::texts::{ENGLISH, Texts};
use super::{act, pages, sign_in};
use crate::cloud::listener::{Peer, admit};
use crate::cloud::operations::{OperationError, Operations};
use crate::cloud::store::{Actor, OperatorSession, Role, StoreError};
use crate::cloud::tokens::chain;
use crate::cloud::web::security_headers;
use crate::cloud::web::session::{
    AGE, CookieNames, IDLE, MAX_FORM, NOTE_USE, READ_FORM, derive, hash, same, token,
};
use crate::secret::{Secret, random_token};

/// Longest time for an answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Refused sign-ins entered into the audit log per minute; nobody may fill it.
const REFUSED_PER_MINUTE: std::num::NonZeroU32 = std::num::NonZeroU32::new(6).unwrap();

#[derive(RustEmbed)]
#[folder = "operators-web/assets"]
struct Assets;

#[derive(RustEmbed)]
#[folder = "onboarding-web/assets"]
struct SharedAssets;

/// Everything the pages need.
pub struct Desk {
    pub operators: Arc<Operators>,
    pub cookies: CookieNames,
    /// Ours, as browsers send it with forms.
    origin: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    pub gate: Gate,
    /// Which refused sign-ins are entered into the audit log.
    pub refusals: DefaultDirectRateLimiter,
    pub texts: &'static Texts,
}

/// Why a page is not shown. The page about it is made by `finish`.
pub enum Failure {
    /// To the sign-in page.
    SignIn,
    /// Not a form of ours, or not for a viewer.
    Forbidden,
    /// The form is too old.
    Expired,
    /// There is no such page, tenant or suite.
    NotFound,
    /// The address asks for something in a way none of our pages does.
    BadAddress,
    /// It was not done, and why.
    Refused(String),
    /// Too many tries; wait so long.
    Wait(Duration),
    /// Nobody was signed in at the issuer, and why not.
    NotSignedIn(StatusCode, String),
    /// An error of ours.
    Ours(String),
}

impl From<StoreError> for Failure {
    fn from(e: StoreError) -> Self {
        Self::Ours(chain(&e))
    }
}

impl From<OperationError> for Failure {
    fn from(e: OperationError) -> Self {
        match e {
            OperationError::NoTenant(_) | OperationError::NoSuite(_) => Self::NotFound,
            OperationError::Store(e) => e.into(),
            refused => Self::Refused(chain(&refused)),
        }
    }
}

#[derive(Clone)]
struct ToShow {
    status: StatusCode,
    title: &'static str,
    text: String,
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let t = &ENGLISH.failures;
        let (status, title, text) = match self {
            Self::SignIn => return go("/sign-in"),
            Self::Forbidden => (StatusCode::FORBIDDEN, t.forbidden, t.forbidden_text.into()),
            Self::Expired => (StatusCode::FORBIDDEN, t.expired, t.expired_text.into()),
            Self::NotFound => (StatusCode::NOT_FOUND, t.not_found, t.not_found_text.into()),
            Self::BadAddress => (
                StatusCode::BAD_REQUEST,
                t.bad_address,
                t.bad_address_text.into(),
            ),
            Self::NotSignedIn(status, why) => (status, t.not_signed_in, why),
            Self::Refused(why) => (StatusCode::CONFLICT, t.refused, why),
            Self::Wait(wait) => {
                let seconds = wait.as_secs().max(1);
                let mut response = Response::default();
                response
                    .headers_mut()
                    .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
                response.extensions_mut().insert(ToShow {
                    status: StatusCode::TOO_MANY_REQUESTS,
                    title: t.wait,
                    text: Texts::fill(t.wait_text, seconds),
                });
                return response;
            }
            Self::Ours(error) => {
                tracing::error!(%error, "an operators' page failed");
                (
                    StatusCode::INTERNAL_SERVER_ERROR,
                    t.ours,
                    t.ours_text.into(),
                )
            }
        };
        let mut response = Response::default();
        response.extensions_mut().insert(ToShow {
            status,
            title,
            text,
        });
        response
    }
}

pub type Answer = Result<Response, Failure>;

/// A page.
pub fn page(template: &impl Template) -> Answer {
    let html = template
        .render()
        .map_err(|e| Failure::Ours(e.to_string()))?;
    Ok(axum::response::Html(html).into_response())
}

/// To one of our own pages: after a form always with GET.
pub fn go(to: &str) -> Response {
    let mut response = StatusCode::SEE_OTHER.into_response();
    let to = HeaderValue::from_str(to).unwrap_or(HeaderValue::from_static("/"));
    response.headers_mut().insert(header::LOCATION, to);
    response
}

/// With a cookie besides.
pub fn with_cookie(mut response: Response, cookie: &Cookie<'_>) -> Response {
    if let Ok(value) = HeaderValue::from_str(&cookie.to_string()) {
        response.headers_mut().append(header::SET_COOKIE, value);
    }
    response
}

/// What every page has.
#[derive(Clone, Default)]
pub struct Common {
    /// Goes with every form.
    pub csrf: String,
    /// Who is signed in; empty for nobody.
    pub operator: String,
    /// Whether he may act.
    pub may_act: bool,
    /// Which page is marked in the navigation.
    pub here: &'static str,
}

#[derive(Template)]
#[template(path = "operators/failure.html")]
struct FailurePage {
    t: &'static Texts,
    c: Common,
    title: &'static str,
    text: String,
}

impl Desk {
    pub fn new(operators: Arc<Operators>) -> Arc<Self> {
        let url = &operators.config.public_url;
        let secure = url.scheme() == "https";
        Arc::new(Self {
            cookies: CookieNames::for_operators(secure),
            origin: url.origin().ascii_serialization(),
            headers: security_headers("", secure),
            gate: Gate::default(),
            refusals: RateLimiter::direct(Quota::per_minute(REFUSED_PER_MINUTE)),
            texts: &ENGLISH,
            operators,
        })
    }

    /// What is seen and done.
    pub fn operations(&self) -> &Operations {
        &self.operators.operations
    }

    /// All pages there are.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/", get(pages::overview))
            .route("/sign-in", get(sign_in::form).post(sign_in::try_password))
            .route("/sign-in/issuer", get(sign_in::issuer::begin_at_issuer))
            .route("/sign-in/callback", get(sign_in::issuer::callback))
            .route("/sign-out", post(sign_in::sign_out))
            .route("/signed-out", get(sign_in::signed_out))
            .route("/tenants/{id}", get(pages::tenant))
            .route("/tenants/{id}/pause", post(act::pause))
            .route("/tenants/{id}/resume", post(act::resume))
            .route("/tenants/{id}/refresh", post(act::refresh))
            .route("/tenants/{id}/link", post(act::link))
            .route("/tenants/{id}/send-link", post(act::send_link))
            .route("/tenants/{id}/invite", post(act::invite))
            .route(
                "/tenants/{id}/offboard",
                get(act::before_offboard).post(act::offboard),
            )
            .route(
                "/tenants/{id}/suites/{suite}/revoke",
                get(act::before_revoke).post(act::revoke),
            )
            .route("/suites", get(pages::suites))
            .route("/alerts", get(pages::alerts))
            // The page that a test answers with keeps itself up to date by its own address.
            .route(
                "/alerts/test",
                get(async || go("/alerts")).post(pages::test_alerts),
            )
            .route("/audit", get(pages::audit))
            .route("/audit/export", post(act::export))
            .route("/assets/{file}", get(asset))
            .fallback(async || Failure::NotFound)
            .method_not_allowed_fallback(async || Failure::NotFound)
            .layer(TimeoutLayer::with_status_code(
                StatusCode::GATEWAY_TIMEOUT,
                TIMEOUT,
            ))
            .layer(CatchPanicLayer::custom(|_| {
                Failure::Ours("a page panicked".into()).into_response()
            }))
            .layer(axum::middleware::from_fn_with_state(
                Arc::clone(self),
                finish,
            ))
            .with_state(Arc::clone(self))
    }

    /// What lets people in just now; sessions begun with something else have ended. `None`: nobody signs in.
    pub async fn proof(&self) -> Option<[u8; 32]> {
        match &self.operators.issuer {
            Some(issuer) => Some(issuer.proof()),
            None => self.stored().await.map(|stored| stored.proof()),
        }
    }

    /// The password's hash as its file stands now.
    pub async fn stored(&self) -> Option<Stored> {
        let path = self.operators.config.password_file.clone()?;
        let read = tokio::task::spawn_blocking(move || Stored::read(&path)).await;
        match read {
            Ok(Ok(stored)) => Some(stored),
            Ok(Err(e)) => {
                tracing::error!(error = %chain(&e), "nobody can sign in to the operators' pages");
                None
            }
            Err(_) => None,
        }
    }
}

/// A browser that asks for something.
pub struct Visit {
    /// What its cookie holds, or will hold.
    pub secret: Secret,
    /// Whether it has to be given the cookie.
    pub is_new: bool,
    /// Its session, if somebody is signed in.
    pub session: Option<OperatorSession>,
}

impl Visit {
    /// What every form of this browser brings back.
    pub fn csrf(&self) -> String {
        derive(&self.secret, "operator's form").expose().to_owned()
    }

    /// The session's name in the store.
    pub fn hash(&self) -> [u8; 32] {
        hash(&self.secret)
    }

    async fn read(desk: &Desk, headers: &HeaderMap, is_use: bool) -> Result<Self, Failure> {
        let jar = CookieJar::from_headers(headers);
        let held = jar.get(desk.cookies.session);
        let Some(secret) = held.and_then(|c: &Cookie<'_>| token(c.value())) else {
            return Ok(Self {
                secret: Secret::new(random_token()),
                is_new: true,
                session: None,
            });
        };
        let (now, store) = (desk.operations().now(), desk.operations().store());
        let name = hash(&secret);
        let mut session = store
            .operator_session(name, now.minus(IDLE), now.minus(AGE))
            .await?;
        if let Some(found) = &session {
            // Looked at anew each time: who is no operator any more does nothing more.
            if desk.proof().await != Some(found.proof) {
                store.end_operator_session(name).await?;
                session = None;
            } else if is_use && found.used_at.until(now) >= NOTE_USE {
                store.note_operator_use(name, now).await?;
            }
        }
        Ok(Self {
            secret,
            is_new: false,
            session,
        })
    }
}

impl FromRequestParts<Arc<Desk>> for Visit {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, desk: &Arc<Desk>) -> Result<Self, Failure> {
        // A page that keeps itself up to date is not somebody who uses it.
        let is_use = !parts.headers.contains_key("x-live");
        Self::read(desk, &parts.headers, is_use).await
    }
}

/// What the path names. What it cannot name is not there.
pub struct Place<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<Arc<Desk>> for Place<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, desk: &Arc<Desk>) -> Result<Self, Failure> {
        let path = Path::<T>::from_request_parts(parts, desk).await;
        path.map(|Path(place)| Self(place))
            .map_err(|_| Failure::NotFound)
    }
}

/// What the query asks for.
pub struct Wanted<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<Arc<Desk>> for Wanted<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Desk>) -> Result<Self, Failure> {
        let query = Query::<T>::try_from_uri(&parts.uri);
        query
            .map(|Query(wanted)| Self(wanted))
            .map_err(|_| Failure::BadAddress)
    }
}

/// Somebody who is signed in and sees everything.
pub struct Viewer {
    /// Who, for the audit log and the corner of the page.
    pub operator: String,
    /// What he may do.
    pub role: Role,
    csrf: String,
}

impl Viewer {
    fn of(visit: &Visit) -> Result<Self, Failure> {
        let session = visit.session.as_ref().ok_or(Failure::SignIn)?;
        Ok(Self {
            operator: session.operator.clone(),
            role: session.role,
            csrf: visit.csrf(),
        })
    }

    /// For the pages he sees.
    pub fn common(&self, here: &'static str) -> Common {
        Common {
            csrf: self.csrf.clone(),
            operator: self.operator.clone(),
            may_act: self.role == Role::Operator,
            here,
        }
    }
}

impl FromRequestParts<Arc<Desk>> for Viewer {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, desk: &Arc<Desk>) -> Result<Self, Failure> {
        let visit = Visit::from_request_parts(parts, desk).await?;
        let viewer = Self::of(&visit)?;
        admit(&parts.extensions);
        Ok(viewer)
    }
}

/// A form that one of our pages has sent, by whoever may be.
pub struct Sent<T> {
    /// Who sent it.
    pub visit: Visit,
    /// From where.
    pub address: IpAddr,
    /// What it says.
    pub form: T,
}

#[derive(Deserialize)]
struct Guarded {
    #[serde(default)]
    csrf: String,
}

/// A form without anything but its proof.
#[derive(Deserialize)]
pub struct Nothing {}

impl<T: DeserializeOwned> FromRequest<Arc<Desk>> for Sent<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, desk: &Arc<Desk>) -> Result<Self, Failure> {
        let origin = request.headers().get(header::ORIGIN);
        if origin.and_then(|o| o.to_str().ok()) != Some(desk.origin.as_str()) {
            return Err(Failure::Forbidden);
        }
        let visit = Visit::read(desk, request.headers(), true).await?;
        let address = Peer::of(request.extensions()).network();
        let body = axum::body::to_bytes(request.into_body(), MAX_FORM);
        let body = tokio::time::timeout(READ_FORM, body)
            .await
            .map_err(|_| Failure::Forbidden)?
            .map_err(|_| Failure::Forbidden)?;
        let guarded: Guarded =
            serde_urlencoded::from_bytes(&body).map_err(|_| Failure::Forbidden)?;
        if visit.is_new || !same(&guarded.csrf, &visit.csrf()) {
            return Err(Failure::Expired);
        }
        let form = serde_urlencoded::from_bytes(&body).map_err(|_| Failure::Forbidden)?;
        Ok(Self {
            visit,
            address,
            form,
        })
    }
}

/// A form sent by somebody who may act.
pub struct Order<T> {
    /// Who, for the audit log.
    pub by: Actor,
    /// Who, for the page.
    pub viewer: Viewer,
    /// What it says.
    pub form: T,
}

impl<T: DeserializeOwned> FromRequest<Arc<Desk>> for Order<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, desk: &Arc<Desk>) -> Result<Self, Failure> {
        let extensions = request.extensions().clone();
        let sent = Sent::<T>::from_request(request, desk).await?;
        let viewer = Viewer::of(&sent.visit)?;
        admit(&extensions);
        if viewer.role != Role::Operator {
            return Err(Failure::Forbidden);
        }
        Ok(Self {
            by: Actor::Operator(viewer.operator.clone()),
            viewer,
            form: sent.form,
        })
    }
}

/// Gives every answer its headers, and failures their page.
async fn finish(State(desk): State<Arc<Desk>>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let bare = response.status() == StatusCode::GATEWAY_TIMEOUT;
    let failed = response.extensions_mut().remove::<ToShow>();
    let failed = failed.or_else(|| {
        bare.then(|| ToShow {
            status: StatusCode::GATEWAY_TIMEOUT,
            title: desk.texts.failures.ours,
            text: desk.texts.failures.ours_text.into(),
        })
    });
    if let Some(failed) = failed {
        let shown = page(&FailurePage {
            t: desk.texts,
            c: Common::default(),
            title: failed.title,
            text: failed.text,
        });
        let mut shown = shown.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response());
        *shown.status_mut() = failed.status;
        for (name, value) in response.headers() {
            if *name != header::CONTENT_TYPE && *name != header::CONTENT_LENGTH {
                shown.headers_mut().append(name, value.clone());
            }
        }
        response = shown;
    }
    for (name, value) in &desk.headers {
        if !response.headers().contains_key(name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

async fn asset(Place(file): Place<String>) -> Answer {
    let found = Assets::get(&file).or_else(|| SharedAssets::get(&file));
    let found = found.ok_or(Failure::NotFound)?;
    let headers = [
        (header::CONTENT_TYPE, found.metadata.mimetype().to_owned()),
        (header::CACHE_CONTROL, "public, max-age=300".to_owned()),
    ];
    Ok((headers, found.data.into_owned()).into_response())
}
