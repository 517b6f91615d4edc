//! Browsers: cookies, sessions, and forms that came from our own pages.
//!
//! A cookie holds 32 random bytes; the store holds their hash. What a form must bring back, what Microsoft must bring back and the
//! link to forward are derived from a cookie by HMAC, so that nothing of it is stored and nothing of it works in another browser.
//! `security-and-faults.md` §4.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::{constant_time, hmac};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum_extra::extract::cookie::{Cookie, CookieJar, SameSite};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::outcome::Kind;
use super::{Failure, Web};
use crate::cloud::store::{Actor, WebSessionRow};
use crate::model::Timestamp;
use crate::secret::{Secret, random_token, sha256};

/// A session ends after so long without use.
pub const IDLE: Duration = Duration::from_mins(30);

/// A session ends at this age.
pub const AGE: Duration = Duration::from_hours(8);

/// A sign-in has to come back within this time.
pub const SIGN_IN_LIFE: Duration = Duration::from_mins(10);

/// A session's last use is noted this often.
pub const NOTE_USE: Duration = Duration::from_mins(1);

/// Letters of 32 bytes in base64url.
const TOKEN_LENGTH: usize = 43;

/// Most bytes of a form.
pub const MAX_FORM: usize = 64 << 10;

/// Longest time for a form to arrive. `security-and-faults.md` §2.
pub const READ_FORM: Duration = Duration::from_secs(10);

/// The names of our cookies: with the prefix that browsers guard, wherever there is TLS.
#[derive(Debug, Clone, Copy)]
pub struct CookieNames {
    /// The session.
    pub session: &'static str,
    /// The sign-in under way.
    pub sign_in: &'static str,
    secure: bool,
}

impl CookieNames {
    /// For pages with or, on loopback, without TLS.
    pub const fn new(secure: bool) -> Self {
        if secure {
            Self {
                session: "__Host-sid",
                sign_in: "__Host-oauth",
                secure,
            }
        } else {
            Self {
                session: "sid",
                sign_in: "oauth",
                secure,
            }
        }
    }

    /// For the operators' pages. Cookies do not tell ports apart, so theirs have names of their own.
    pub const fn for_operators(secure: bool) -> Self {
        if secure {
            Self {
                session: "__Host-operator",
                sign_in: "__Host-operator-oidc",
                secure,
            }
        } else {
            Self {
                session: "operator",
                sign_in: "operator-oidc",
                secure,
            }
        }
    }

    fn cookie(self, name: &'static str, value: String) -> Cookie<'static> {
        Cookie::build((name, value))
            .path("/")
            .http_only(true)
            .secure(self.secure)
            .same_site(SameSite::Lax)
            .build()
    }

    /// The cookie of a session: for as long as the browser is open, and no longer than we accept it.
    pub fn for_session(self, secret: &Secret) -> Cookie<'static> {
        self.cookie(self.session, secret.expose().to_owned())
    }

    /// The cookie of a sign-in.
    pub fn for_sign_in(self, secret: &Secret) -> Cookie<'static> {
        let mut cookie = self.cookie(self.sign_in, secret.expose().to_owned());
        cookie.set_max_age(time::Duration::try_from(SIGN_IN_LIFE).ok());
        cookie
    }

    /// Takes the cookie of a sign-in away.
    pub fn end_sign_in(self) -> Cookie<'static> {
        let mut cookie = self.cookie(self.sign_in, String::new());
        cookie.make_removal();
        cookie
    }
}

/// A text derived from a secret: 43 letters, different for each purpose.
pub fn derive(secret: &Secret, purpose: &str) -> Secret {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes());
    Secret::new(URL_SAFE_NO_PAD.encode(hmac::sign(&key, purpose.as_bytes())))
}

/// A secret from outside, if it has the form of ours.
pub fn token(text: &str) -> Option<Secret> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (text.len() == TOKEN_LENGTH && text.bytes().all(fits)).then(|| Secret::new(text))
}

/// SHA-256 of a secret, as stored.
pub fn hash(secret: &Secret) -> [u8; 32] {
    sha256(secret.expose().as_bytes())
}

/// Whether two texts are the same; takes as long whichever letter differs.
pub fn same(a: &str, b: &str) -> bool {
    constant_time::verify_slices_are_equal(a.as_bytes(), b.as_bytes()).is_ok()
}

/// A browser that asks for something.
pub struct Visit {
    /// What its cookie holds, or will hold.
    pub secret: Secret,
    /// Whether it has to be given the cookie.
    pub is_new: bool,
    /// Its session, if it has one that is still good.
    pub session: Option<WebSessionRow>,
    /// The cookie of a sign-in under way.
    pub sign_in: Option<Secret>,
}

impl Visit {
    /// Who it is, for the audit log.
    pub fn actor(&self) -> Actor {
        Actor::Customer(self.session.as_ref().and_then(|session| session.account))
    }

    /// What every form of this browser brings back.
    pub fn csrf(&self) -> String {
        derive(&self.secret, "form").expose().to_owned()
    }

    /// The session's name in the store.
    pub fn hash(&self) -> [u8; 32] {
        hash(&self.secret)
    }

    async fn read(web: &Web, headers: &HeaderMap) -> Result<Self, Failure> {
        let jar = CookieJar::from_headers(headers);
        let held = |name| jar.get(name).and_then(|c: &Cookie<'_>| token(c.value()));
        let sign_in = held(web.cookies.sign_in);
        let Some(secret) = held(web.cookies.session) else {
            return Ok(Self {
                secret: Secret::new(random_token()),
                is_new: true,
                session: None,
                sign_in,
            });
        };
        let now = web.clock.now();
        let session = web
            .store
            .web_session(hash(&secret), now.minus(IDLE), now.minus(AGE))
            .await?;
        Ok(Self {
            secret,
            is_new: false,
            session,
            sign_in,
        })
    }

    async fn note_use(&mut self, web: &Web, now: Timestamp) -> Result<(), Failure> {
        let name = self.hash();
        if let Some(session) = &mut self.session
            && session.used_at.until(now) >= NOTE_USE
        {
            session.used_at = now;
            web.store.note_session_use(name, now).await?;
        }
        Ok(())
    }

    /// Begins a session under a new name, in place of the one before: whoever knew that one knows nothing of this. What goes on with
    /// the rights of the one before, and therefore says when that was begun, lives no longer than it.
    pub async fn begin_session(
        &mut self,
        web: &Web,
        session: WebSessionRow,
    ) -> Result<Cookie<'static>, Failure> {
        if self.session.is_some() {
            web.store.end_web_session(self.hash()).await?;
        }
        let now = web.clock.now();
        let session = WebSessionRow {
            created_at: match session.created_at {
                begun if begun == Timestamp::default() => now,
                begun => begun,
            },
            used_at: now,
            ..session
        };
        self.secret = Secret::new(random_token());
        web.store.put_web_session(self.hash(), &session).await?;
        self.session = Some(session);
        self.is_new = false;
        Ok(web.cookies.for_session(&self.secret))
    }
}

impl FromRequestParts<Arc<Web>> for Visit {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, web: &Arc<Web>) -> Result<Self, Failure> {
        let mut visit = Self::read(web, &parts.headers).await?;
        // A page that keeps itself up to date is not somebody who uses it.
        if parts.uri.query() != Some("live") {
            visit.note_use(web, web.clock.now()).await?;
        }
        Ok(visit)
    }
}

/// A form that one of our pages has sent.
pub struct Posted<T> {
    /// Who sent it.
    pub visit: Visit,
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

impl<T: DeserializeOwned> FromRequest<Arc<Web>> for Posted<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, web: &Arc<Web>) -> Result<Self, Failure> {
        let forbidden = || Failure::Kind(Kind::Forbidden);
        let origin = request.headers().get(header::ORIGIN);
        if origin.and_then(|o| o.to_str().ok()) != Some(web.origin.as_str()) {
            return Err(forbidden());
        }
        let mut visit = Visit::read(web, request.headers()).await?;
        visit.note_use(web, web.clock.now()).await?;
        let body = axum::body::to_bytes(request.into_body(), MAX_FORM);
        let body = tokio::time::timeout(READ_FORM, body)
            .await
            .map_err(|_| forbidden())?
            .map_err(|_| forbidden())?;
        let guarded: Guarded = serde_urlencoded::from_bytes(&body).map_err(|_| forbidden())?;
        if visit.is_new || !same(&guarded.csrf, &visit.csrf()) {
            return Err(Failure::Kind(Kind::Expired));
        }
        let form = serde_urlencoded::from_bytes(&body).map_err(|_| forbidden())?;
        Ok(Self { visit, form })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_derived_differs_by_purpose_and_by_secret() {
        let (a, b) = (Secret::new("a"), Secret::new("b"));
        let form = derive(&a, "form");
        assert_eq!(form.expose(), derive(&a, "form").expose());
        assert_ne!(form.expose(), derive(&a, "nonce").expose());
        assert_ne!(form.expose(), derive(&b, "form").expose());
        assert!(
            token(form.expose()).is_some(),
            "fits as a PKCE verifier: 43 letters"
        );
    }

    #[test]
    fn only_what_looks_like_a_token_of_ours_is_looked_up() {
        for text in [
            "",
            "short",
            &"x".repeat(44),
            &"ü".repeat(22),
            &format!("{}'", "x".repeat(42)),
        ] {
            assert!(token(text).is_none(), "{text}");
        }
    }

    #[test]
    fn cookies_are_guarded_as_browsers_allow() {
        let cookie = CookieNames::new(true)
            .for_sign_in(&Secret::new("s"))
            .to_string();
        for part in [
            "__Host-oauth=s",
            "HttpOnly",
            "Secure",
            "SameSite=Lax",
            "Path=/",
            "Max-Age=600",
        ] {
            assert!(cookie.contains(part), "{part} is missing in {cookie}");
        }
        assert!(!cookie.contains("Domain"));
        let plain = CookieNames::new(false)
            .for_session(&Secret::new("s"))
            .to_string();
        assert!(
            plain.starts_with("sid=s") && !plain.contains("Secure") && !plain.contains("Max-Age")
        );
        assert!(
            CookieNames::new(true)
                .end_sign_in()
                .to_string()
                .contains("Max-Age=0")
        );
    }
}
