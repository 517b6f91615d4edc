//! Signing in at an issuer (OpenID Connect): authorization code, PKCE, state and nonce.
//!
//! Invariants: only the issuer's own addresses are spoken to, as its discovery document names them, over https, without redirects and
//! within limits; a sign-in comes back to the browser that began it, once and within ten minutes; nobody is believed before the id
//! token was verified; no token and no code is kept, logged or shown. An issuer that is down stops nothing but signing in.

mod claims;
mod discovery;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use oauth2::basic::{
    BasicErrorResponse, BasicRevocationErrorResponse, BasicTokenIntrospectionResponse,
    BasicTokenType,
};
use oauth2::{
    AuthorizationCode, ClientId, ClientSecret, EndpointNotSet, EndpointSet, ExtraTokenFields,
    PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, RequestTokenError, StandardRevocableToken,
    StandardTokenResponse, TokenUrl,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use url::Url;

pub use claims::Person;
use discovery::{ALGORITHMS, Description};

use super::password::PasswordError;
use crate::cloud::web::session::{SIGN_IN_LIFE, derive, hash, same, token};
use crate::config::cloud::{OidcConfig, OperatorsConfig};
use crate::microsoft::transport::{
    HttpTransport, Limits, ReqwestTransport, TransportError, TransportSetupError,
};
use crate::model::Timestamp;
use crate::secret::{ReadSecretError, Secret, random_token, read_secret_file, sha256};
use crate::signing_keys::{Head, SigningKeys, TokenError};

/// The discovery document is fetched anew after this time.
const FRESH: Duration = Duration::from_hours(1);

/// One of this age still serves when no newer one can be had.
const USABLE: Duration = Duration::from_hours(24);

/// An issuer that has failed is left alone for so long.
const REST: Duration = Duration::from_secs(5);

/// How long a sign-in waits for another one to fetch the discovery document.
const TURN: Duration = Duration::from_secs(15);

/// Longest id token, in bytes: one with many groups is long.
const LONGEST_TOKEN: usize = 48 << 10;

/// Most sign-ins remembered as used. They are forgotten after [`SIGN_IN_LIFE`], when they are good for nothing anyway.
const MOST_SPENT: usize = 10_000;

/// Names in the audit log that nobody can have from an issuer.
pub const RESERVED: [&str; 2] = [super::sign_in::BY_PASSWORD, super::sign_in::NOBODY];

/// Why nobody was signed in. Nothing of what came from outside is in the text but technical words.
#[derive(Debug, thiserror::Error)]
pub enum OidcError {
    /// No answer.
    #[error("{0} was not fetched from the issuer")]
    Unreachable(&'static str, #[source] TransportError),
    /// An answer that is none.
    #[error("the issuer answered {1} when it was asked for {0}")]
    Status(&'static str, StatusCode),
    /// The discovery document.
    #[error("the issuer's discovery document {0}")]
    Discovery(&'static str),
    /// The keys.
    #[error("the issuer publishes no key that can be used")]
    NoKeys,
    /// It failed a moment ago.
    #[error("the issuer failed a moment ago and is asked again in a few seconds")]
    Resting,
    /// Our secret.
    #[error("the client secret of [oidc] cannot be read")]
    Secret(#[from] ReadSecretError),
    /// The client could not be built.
    #[error("the issuer's addresses cannot be used")]
    Transport(#[from] TransportSetupError),
    /// It does not take the code.
    #[error("the issuer did not redeem the code: {0}")]
    Code(String),
    /// There is no id token in its answer.
    #[error("the issuer gave no id token")]
    NoToken,
    /// The id token is not what it seems.
    #[error("the id token was refused")]
    Token(#[from] TokenError),
    /// It does not claim what it must.
    #[error("the id token was refused: {0}")]
    Claim(&'static str),
    /// Sent back by another issuer (RFC 9207).
    #[error("the answer names another issuer")]
    MixUp,
}

impl OidcError {
    /// Whether the issuer does not work, or we do not: nobody could sign in just now.
    pub fn is_outage(&self) -> bool {
        !matches!(
            self,
            Self::Code(_) | Self::NoToken | Self::Token(_) | Self::Claim(_) | Self::MixUp
        )
    }
}

/// Why operators could not sign in at all.
#[derive(Debug, thiserror::Error)]
pub enum OperatorsError {
    /// The password's file.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// The extra root certificates.
    #[error("cannot read {0}, the extra root certificates of [oidc]")]
    Roots(String, #[source] std::io::Error),
    /// The client for the issuer.
    #[error("the issuer of [oidc] cannot be used")]
    Issuer(#[from] TransportSetupError),
}

/// Where and how we know the issuer, for a while.
struct Found {
    description: Description,
    transport: Arc<dyn HttpTransport>,
    at: Timestamp,
}

#[derive(Default)]
struct State {
    found: Option<Arc<Found>>,
    failed_at: Option<Timestamp>,
    /// Sign-ins that have come back, by the hash of their secret.
    spent: HashMap<[u8; 32], Timestamp>,
}

/// The issuer at which operators sign in.
pub struct Issuer {
    config: OidcConfig,
    redirect_uri: RedirectUrl,
    roots: Option<Vec<u8>>,
    own: Arc<dyn HttpTransport>,
    state: Mutex<State>,
    /// One asks for the document, the others wait for it.
    turn: Semaphore,
    keys: SigningKeys,
    /// Marks the cookies of sign-ins as ours. A restart ends those under way.
    mark: Secret,
}

/// A sign-in that a browser has begun.
pub struct Begun {
    secret: Secret,
    at: Timestamp,
}

impl Begun {
    fn state(&self) -> Secret {
        derive(&self.secret, "issuer's state")
    }

    fn nonce(&self) -> Secret {
        derive(&self.secret, "issuer's nonce")
    }

    fn verifier(&self) -> Secret {
        derive(&self.secret, "issuer's verifier")
    }
}

/// What a browser brings back from the issuer.
#[derive(Deserialize)]
pub struct Brought {
    /// The code, if somebody has signed in.
    #[serde(default)]
    pub code: Option<String>,
    /// Our own words.
    #[serde(default)]
    pub state: String,
    /// Who sends it (RFC 9207).
    #[serde(default)]
    pub iss: Option<String>,
    /// What went wrong there.
    #[serde(default)]
    pub error: Option<String>,
    /// The same, for people.
    #[serde(default)]
    pub error_description: Option<String>,
}

/// All that is read of an answer with tokens.
#[derive(Debug, Deserialize, Serialize)]
struct IdToken {
    #[serde(default)]
    id_token: Option<String>,
}

impl ExtraTokenFields for IdToken {}

type Client = oauth2::Client<
    BasicErrorResponse,
    StandardTokenResponse<IdToken, BasicTokenType>,
    BasicTokenIntrospectionResponse,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointSet,
>;

/// Sends what the OAuth client has written.
struct Exchange(Arc<dyn HttpTransport>);

impl<'c> oauth2::AsyncHttpClient<'c> for Exchange {
    type Error = TransportError;
    type Future =
        Pin<Box<dyn Future<Output = Result<oauth2::HttpResponse, TransportError>> + Send + 'c>>;

    fn call(&'c self, request: oauth2::HttpRequest) -> Self::Future {
        Box::pin(async move {
            let answer = self.0.send(request.map(Bytes::from), Limits::TOKEN);
            answer.await.map(|answer| answer.map(|body| body.to_vec()))
        })
    }
}

impl Issuer {
    /// For this configuration; nothing is asked yet. `None`: operators do not sign in at an issuer.
    pub fn new(operators: &OperatorsConfig) -> Result<Option<Self>, OperatorsError> {
        let Some(config) = operators.oidc.clone() else {
            return Ok(None);
        };
        let roots = config.extra_roots.as_ref().map(|path| {
            std::fs::read(path).map_err(|e| OperatorsError::Roots(path.display().to_string(), e))
        });
        let roots = roots.transpose()?;
        let own =
            ReqwestTransport::new(std::slice::from_ref(&config.issuer_url), roots.as_deref())?;
        let redirect_uri = operators
            .public_url
            .join("/sign-in/callback")
            .expect("a path joins an origin");
        Ok(Some(Self {
            redirect_uri: RedirectUrl::from_url(redirect_uri),
            config,
            roots,
            own: Arc::new(own),
            state: Mutex::default(),
            turn: Semaphore::new(1),
            keys: SigningKeys::default(),
            mark: Secret::new(random_token()),
        }))
    }

    /// Where the issuer sends browsers back to: to be registered there.
    pub fn redirect_uri(&self) -> &Url {
        self.redirect_uri.url()
    }

    /// How people know it.
    pub fn host(&self) -> &str {
        self.config.issuer_url.host_str().unwrap_or_default()
    }

    /// What sessions are tied to: another issuer, client or other groups end them.
    pub fn proof(&self) -> [u8; 32] {
        let OidcConfig {
            issuer,
            client_id,
            role_claim,
            operators,
            viewers,
            ..
        } = &self.config;
        let all = serde_json::json!([issuer, client_id, role_claim, operators, viewers]);
        sha256(all.to_string().as_bytes())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, now: Timestamp, age: Duration) -> Option<Arc<Found>> {
        let state = self.state();
        let found = state.found.as_ref()?;
        (found.at.until(now) < age).then(|| Arc::clone(found))
    }

    /// Asks the issuer who it is, unless that is known.
    async fn found(&self, now: Timestamp) -> Result<Arc<Found>, OidcError> {
        if let Some(found) = self.known(now, FRESH) {
            return Ok(found);
        }
        let Ok(Ok(_turn)) = tokio::time::timeout(TURN, self.turn.acquire()).await else {
            return Err(OidcError::Resting);
        };
        if let Some(found) = self.known(now, FRESH) {
            return Ok(found);
        }
        let failed = |at: Timestamp| at.until(now) < REST;
        let rests = self.state().failed_at.is_some_and(failed);
        let asked = if rests {
            Err(OidcError::Resting)
        } else {
            self.discover(now).await
        };
        match asked {
            Ok(found) => {
                let found = Arc::new(found);
                let mut state = self.state();
                state.found = Some(Arc::clone(&found));
                state.failed_at = None;
                Ok(found)
            }
            Err(e) => {
                if !rests {
                    self.state().failed_at = Some(now);
                }
                self.known(now, USABLE).ok_or(e)
            }
        }
    }

    async fn discover(&self, now: Timestamp) -> Result<Found, OidcError> {
        const WHAT: &str = "its discovery document";
        let url = discovery::address(&self.config.issuer_url);
        let body = get(&*self.own, &url, WHAT).await?;
        let description = Description::read(
            &body,
            &self.config.issuer,
            &self.config.issuer_url,
            self.config.client_secret_file.is_some(),
        )?;
        // What the browser is sent to we do not speak to ourselves.
        let spoken_to = [description.token.clone(), description.keys.clone()];
        let transport = ReqwestTransport::new(&spoken_to, self.roots.as_deref())?;
        Ok(Found {
            description,
            transport: Arc::new(transport),
            at: now,
        })
    }

    /// Whether the issuer answers as it must, for who looks after the configuration.
    pub async fn look(&self, now: Timestamp) -> Result<(), OidcError> {
        self.secret().await?;
        let found = self.found(now).await?;
        self.fetch_keys(&found, now).await
    }

    /// Our secret there, if we have one. Read anew each time, so that it can be replaced while we serve.
    async fn secret(&self) -> Result<Option<Secret>, ReadSecretError> {
        let Some(path) = self.config.client_secret_file.clone() else {
            return Ok(None);
        };
        let read = tokio::task::spawn_blocking(move || read_secret_file(&path)).await;
        read.expect("reading a file does not panic").map(Some)
    }

    /// Begins a sign-in: where to send the browser, and the cookie it is known by when it comes back.
    pub async fn begin(&self, now: Timestamp) -> Result<(Url, Secret), OidcError> {
        let found = self.found(now).await?;
        let begun = Begun {
            secret: Secret::new(random_token()),
            at: now,
        };
        let verifier = PkceCodeVerifier::new(begun.verifier().expose().to_owned());
        let challenge = PkceCodeChallenge::from_code_verifier_sha256(&verifier);
        let mut scopes = vec!["openid"];
        let others = self.config.scopes.iter().map(String::as_str);
        scopes.extend(others.filter(|scope| *scope != "openid"));
        let mut url = found.description.authorization.clone();
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &self.config.client_id)
            .append_pair("redirect_uri", self.redirect_uri.as_str())
            .append_pair("scope", &scopes.join(" "))
            .append_pair("state", begun.state().expose())
            .append_pair("nonce", begun.nonce().expose())
            .append_pair("code_challenge", challenge.as_str())
            .append_pair("code_challenge_method", challenge.method().as_str());
        Ok((url, self.cookie(&begun)))
    }

    /// The secret, when it was begun, and our mark on both.
    fn cookie(&self, begun: &Begun) -> Secret {
        let text = format!("{}.{}", begun.secret.expose(), begun.at.as_millis());
        let mark = derive(&self.mark, &text);
        Secret::new(format!("{text}.{}", mark.expose()))
    }

    /// The sign-in that a browser comes back from, if this is the browser that began it, in time and for the first time.
    pub fn returned(&self, cookie: &str, state: &str, now: Timestamp) -> Option<Begun> {
        let (text, mark) = cookie.rsplit_once('.')?;
        let (secret, at) = text.split_once('.')?;
        if !same(mark, derive(&self.mark, text).expose()) {
            return None;
        }
        let begun = Begun {
            secret: token(secret)?,
            at: Timestamp::from_millis(at.parse().ok()?),
        };
        if !same(state, begun.state().expose()) || begun.at.until(now) >= SIGN_IN_LIFE {
            return None;
        }
        let spent = &mut self.state().spent;
        if spent.len() >= MOST_SPENT {
            spent.retain(|_, at| at.until(now) < SIGN_IN_LIFE);
        }
        let first =
            spent.len() < MOST_SPENT && spent.insert(hash(&begun.secret), begun.at).is_none();
        first.then_some(begun)
    }

    /// Who has signed in: redeems the code and verifies the id token.
    pub async fn finish(
        &self,
        begun: &Begun,
        brought: Brought,
        now: Timestamp,
    ) -> Result<Person, OidcError> {
        let found = self.found(now).await?;
        let issuer = brought.iss.as_deref();
        if issuer.is_some_and(|named| named != self.config.issuer)
            || (issuer.is_none() && found.description.names_itself)
        {
            return Err(OidcError::MixUp);
        }
        let code = brought.code.filter(|code| !code.is_empty());
        let code = code.ok_or_else(|| OidcError::Code("there is none".into()))?;
        let token = self.redeem(&found, code, begun).await?;
        let head = Head::read(&token, LONGEST_TOKEN, &ALGORITHMS)?;
        if self.keys.wants(&head, now)
            && let Err(failed) = self.fetch_keys(&found, now).await
            && !self.keys.usable(now)
        {
            return Err(failed);
        }
        let signed = self.keys.verify::<claims::Claims>(&token, &head, now)?;
        let nonce = begun.nonce();
        signed.claims.check(&self.config, &nonce, begun.at, now)
    }

    /// Trades the code for an id token.
    async fn redeem(
        &self,
        found: &Found,
        code: String,
        begun: &Begun,
    ) -> Result<String, OidcError> {
        let description = &found.description;
        let mut client: Client = oauth2::Client::new(ClientId::new(self.config.client_id.clone()))
            .set_auth_type(description.auth.clone())
            .set_redirect_uri(self.redirect_uri.clone())
            .set_token_uri(TokenUrl::from_url(description.token.clone()));
        if let Some(secret) = self.secret().await? {
            client = client.set_client_secret(ClientSecret::new(secret.expose().to_owned()));
        }
        let exchange = Exchange(Arc::clone(&found.transport));
        let answer = client
            .exchange_code(AuthorizationCode::new(code))
            .set_pkce_verifier(PkceCodeVerifier::new(begun.verifier().expose().to_owned()))
            .request_async(&exchange)
            .await;
        match answer {
            Ok(tokens) => {
                let token = tokens.extra_fields().id_token.clone();
                token.ok_or(OidcError::NoToken)
            }
            Err(RequestTokenError::Request(e)) => Err(OidcError::Unreachable("a token", e)),
            Err(RequestTokenError::ServerResponse(refusal)) => {
                Err(OidcError::Code(technical(refusal.error().as_ref()).into()))
            }
            // The parts of a body that failed to parse may hold a token: nothing of them goes on.
            Err(_) => Err(OidcError::Code(
                "its answer is no answer with tokens".into(),
            )),
        }
    }

    async fn fetch_keys(&self, found: &Found, now: Timestamp) -> Result<(), OidcError> {
        self.keys.note_asked(now);
        let body = get(&*found.transport, &found.description.keys, "its keys").await?;
        let published = serde_json::from_slice(&body).map_err(|_| OidcError::NoKeys)?;
        if self.keys.replace(&published, &ALGORITHMS, now) {
            Ok(())
        } else {
            Err(OidcError::NoKeys)
        }
    }

    /// Where a browser signs out of the issuer too, if it offers that. OpenID Connect RP-Initiated Logout 1.0 §2. We keep no id token
    /// to name the session by; the issuer may therefore ask whether that is meant.
    pub fn sign_out_url(&self, now: Timestamp) -> Option<Url> {
        let found = self.known(now, USABLE)?;
        let mut url = found.description.end_session.clone()?;
        let mut back = self.redirect_uri.url().clone();
        back.set_path("/sign-in");
        url.query_pairs_mut()
            .append_pair("client_id", &self.config.client_id)
            .append_pair("post_logout_redirect_uri", back.as_str());
        Some(url)
    }
}

async fn get(
    transport: &dyn HttpTransport,
    url: &Url,
    what: &'static str,
) -> Result<Bytes, OidcError> {
    let request = Request::get(url.as_str())
        .header(header::ACCEPT, "application/json")
        .body(Bytes::new())
        .map_err(|_| OidcError::Unreachable(what, TransportError::Invalid))?;
    let sent = transport.send(request, Limits::TOKEN).await;
    let answer = sent.map_err(|e| OidcError::Unreachable(what, e))?;
    if answer.status() == StatusCode::OK {
        Ok(answer.into_body())
    } else {
        Err(OidcError::Status(what, answer.status()))
    }
}

/// A word of the protocol, or that it is none.
pub fn technical(word: &str) -> &str {
    let fits = |b: u8| b.is_ascii_lowercase() || b == b'_';
    if (1..=40).contains(&word.len()) && word.bytes().all(fits) {
        word
    } else {
        "something else"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::listeners::ListenerConfig;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn issuer() -> Issuer {
        let url = |text: &str| Url::parse(text).unwrap();
        let oidc = OidcConfig {
            issuer: "https://login.example".into(),
            issuer_url: url("https://login.example"),
            client_id: "us".into(),
            client_secret_file: None,
            extra_roots: None,
            scopes: Vec::new(),
            role_claim: "groups".into(),
            operators: vec!["ops".into()],
            viewers: Vec::new(),
        };
        let operators = OperatorsConfig {
            listener: ListenerConfig::plain(([127, 0, 0, 1], 8444).into()),
            public_url: url("https://presence.example"),
            password_file: None,
            oidc: Some(oidc),
        };
        Issuer::new(&operators).unwrap().unwrap()
    }

    #[test]
    fn a_sign_in_comes_back_once_and_in_time() {
        let issuer = issuer();
        let begin = || {
            let begun = Begun {
                secret: Secret::new(random_token()),
                at: NOW,
            };
            (begun.state(), issuer.cookie(&begun))
        };
        let (state, cookie) = begin();
        let returned = |state: &Secret, cookie: &Secret, after: Duration| {
            issuer
                .returned(cookie.expose(), state.expose(), NOW.plus(after))
                .is_some()
        };
        assert!(!returned(&state, &cookie, SIGN_IN_LIFE));
        let (another, _) = begin();
        assert!(!returned(&another, &cookie, Duration::ZERO));
        assert!(returned(&state, &cookie, Duration::from_secs(599)));
        assert!(!returned(&state, &cookie, Duration::from_secs(599)));
        for odd in ["", ".", "..", "a.b.c"] {
            assert!(!returned(&state, &Secret::new(odd), Duration::ZERO));
        }
    }

    #[test]
    fn another_configuration_ends_sessions() {
        let one = issuer();
        let mut others = vec![issuer(), issuer(), issuer(), issuer()];
        others[0].config.issuer.push('/');
        others[1].config.client_id.push('2');
        others[2].config.operators.clear();
        others[3].config.viewers = vec!["helpdesk".into()];
        for other in &others {
            assert_ne!(one.proof(), other.proof());
        }
        assert_eq!(one.proof(), issuer().proof());
    }

    #[test]
    fn only_words_of_the_protocol_are_passed_on() {
        assert_eq!(technical("access_denied"), "access_denied");
        for odd in ["", "Call 0900", "<b>", &"x".repeat(41)] {
            assert_eq!(technical(odd), "something else");
        }
    }
}
