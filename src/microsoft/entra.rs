//! Entra: which tenant a domain is, and access tokens for it.
//!
//! Tokens are opaque here: never parsed, never logged. A refresh token is spent once, never again here: whoever calls owns the
//! order of saving and using. Only a credential of ours that Entra refuses, which spends nothing, gives way to the next one.
//! `entra-oauth.md` §3, §4, §5.3.

mod certificate;
mod credential;

mod authorize;
mod id_token;

/// When a certificate in DER ends, whosever it is; `None`: it cannot be read.
pub fn certificate_ends(der: &[u8]) -> Option<crate::model::Timestamp> {
    certificate::read(der).map(|read| read.ends)
}

pub use authorize::{Ask, Authorized, RedeemError, SignIn, refused_in_browser};
pub use id_token::{IdTokenError, SignedIn, SigningKeys};

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use oauth2::basic::{
    BasicRevocationErrorResponse, BasicTokenIntrospectionResponse, BasicTokenType,
};
use oauth2::{
    AuthType, ClientId, ClientSecret, EndpointNotSet, EndpointSet, ErrorResponse, RefreshToken,
    RequestTokenError, Scope, StandardRevocableToken, TokenResponse, TokenUrl,
};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use url::Url;
use uuid::Uuid;

use super::call::{self, Answer};
use super::error::{BadAnswer, BadInput, MicrosoftError, OAuthError, Operation};
use super::headers;
use super::transport::{HttpTransport, Limits};
use crate::clock::Clock;
use crate::model::{TenantId, Timestamp};
use crate::secret::Secret;
pub use credential::{Credential, CredentialFacts, CredentialKind, Ending};
use credential::{Credentials, Signer, is_of_the_credential};

/// The tenant of personal Microsoft accounts, which have no Teams presence. `entra-oauth.md` §5.
pub const PERSONAL_ACCOUNTS: TenantId =
    TenantId(Uuid::from_u128(0x9188_040d_6c67_4c5b_b112_36a3_04b6_6dad));

/// How long an assertion of ours is valid: the shortest Microsoft suggests. `entra-oauth.md` §4.
const ASSERTION_LIFE: Duration = Duration::from_mins(5);

/// Life of a token whose answer does not say: the shortest a tenant can configure. `entra-oauth.md` §7.
const SHORTEST_LIFE: Duration = Duration::from_mins(10);

/// Longest life believed. `entra-oauth.md` §7.
const LONGEST_LIFE: Duration = Duration::from_hours(28);

/// The permissions a service account grants, without the root of Graph. `security-and-faults.md` §3.
const DELEGATED: [&str; 2] = ["Presence.Read.All", "User.ReadBasic.All"];

/// How our application proves who it is.
#[derive(Debug, Clone)]
pub enum AppCredential {
    /// A client secret: the value, not its id.
    Secret(Secret),
    /// A certificate and its RSA key, both PEM; preferred. `entra-oauth.md` §4.
    Certificate {
        /// The certificate as registered; of several the first counts.
        certificate_pem: String,
        /// The key, PKCS#8 or PKCS#1.
        private_key_pem: Secret,
    },
}

/// Why the credential or an address cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntraSetupError {
    /// No certificate in the PEM.
    #[error("the certificate of the application is not PEM")]
    Certificate,
    /// No RSA key in the PEM, or one that cannot sign.
    #[error("the private key of the application is not an RSA key in PEM")]
    PrivateKey,
    /// The key does not belong to the certificate.
    #[error("the private key does not belong to the certificate: they are of two different pairs")]
    NotAPair,
    /// There is no credential at all.
    #[error("the application has no credential")]
    NoCredential,
    /// The login root is no base of addresses.
    #[error("the login root is not the address of a web service")]
    LoginRoot,
}

/// An access token for Graph.
#[derive(Debug, Clone)]
pub struct AccessToken {
    /// The token itself, opaque.
    pub secret: Secret,
    /// When it ends, by our clock, counted from before the request was sent.
    pub expires_at: Timestamp,
    /// Scopes as granted, in Microsoft's words; may be empty for application tokens.
    pub scopes: Vec<String>,
}

impl AccessToken {
    /// Whether a permission was granted, however it is spelt: in any letter case, with or without the root of Graph.
    pub fn has_scope(&self, permission: &str) -> bool {
        self.scopes.iter().any(|scope| {
            let last = scope.rsplit('/').next().unwrap_or(scope);
            last.eq_ignore_ascii_case(permission)
        })
    }
}

/// What a refresh gives.
#[derive(Debug, Clone)]
pub struct Refreshed {
    /// The access token.
    pub access: AccessToken,
    /// The refresh token that takes the place of the one used: store it before the access token is used.
    pub refresh_token: Option<Secret>,
}

/// What is public about a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovered {
    /// Its id.
    pub tenant: TenantId,
    /// Host of the Graph that serves it, for example `graph.microsoft.com`.
    pub graph_host: Option<String>,
    /// Microsoft's region, for example `EU` or `WW`.
    pub region: Option<String>,
}

/// The client of Entra, for one application.
#[derive(Clone)]
pub struct Entra {
    transport: Arc<dyn HttpTransport>,
    login_root: Url,
    graph_root: Url,
    client_id: Uuid,
    credentials: Arc<Credentials>,
    keys: Arc<SigningKeys>,
    clock: Clock,
}

impl fmt::Debug for Entra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entra")
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}

type Client = oauth2::Client<
    Refusal,
    Tokens,
    BasicTokenIntrospectionResponse,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointSet,
>;

/// Form fields that prove who we are.
type Proof = Vec<(&'static str, String)>;

impl Entra {
    /// A client for the application `client_id`; the roots are for example `https://login.microsoftonline.com` and
    /// `https://graph.microsoft.com`. Tries the credential once, without asking anybody.
    pub fn new(
        transport: Arc<dyn HttpTransport>,
        login_root: Url,
        graph_root: Url,
        client_id: Uuid,
        credential: AppCredential,
        clock: Clock,
    ) -> Result<Self, EntraSetupError> {
        let only = vec![Credential::new(credential, None)?];
        Self::with_credentials(transport, login_root, graph_root, client_id, only, clock)
    }

    /// Like [`Entra::new`], with several credentials of which each may be used.
    pub fn with_credentials(
        transport: Arc<dyn HttpTransport>,
        login_root: Url,
        graph_root: Url,
        client_id: Uuid,
        credentials: Vec<Credential>,
        clock: Clock,
    ) -> Result<Self, EntraSetupError> {
        if login_root.cannot_be_a_base() {
            return Err(EntraSetupError::LoginRoot);
        }
        if credentials.is_empty() {
            return Err(EntraSetupError::NoCredential);
        }
        Ok(Self {
            transport,
            login_root,
            graph_root,
            client_id,
            credentials: Arc::new(Credentials::new(credentials)),
            keys: Arc::default(),
            clock,
        })
    }

    /// What may be known about our credentials, in the order of the configuration.
    pub fn credentials(&self) -> Vec<CredentialFacts> {
        self.credentials.facts()
    }

    /// Asks with the preferred credential; with the next one if Entra refuses that one, which spends nothing else.
    async fn with_any<'a, T>(
        &'a self,
        operation: Operation,
        ask: impl Fn(&'a Credential) -> BoxFuture<'a, Result<T, MicrosoftError>>,
    ) -> Result<T, MicrosoftError> {
        let order = self.credentials.order(self.clock.now());
        let mut refused = None;
        for (tried, n) in order.iter().enumerate() {
            match ask(self.credentials.get(*n)).await {
                Err(e) if is_of_the_credential(&e) => {
                    let is_last = tried + 1 == order.len();
                    self.credentials.refused(*n, &e, is_last);
                    refused = Some(e);
                }
                outcome => {
                    if outcome.is_ok() {
                        self.credentials.worked(*n);
                    }
                    return outcome;
                }
            }
        }
        Err(refused.unwrap_or_else(|| MicrosoftError::input(operation, BadInput::Credential)))
    }

    /// Finds a tenant by one of its domains, or by its id.
    pub async fn discover(&self, domain_or_id: &str) -> Result<Discovered, MicrosoftError> {
        const OPERATION: Operation = Operation::Discover;
        let name = domain_or_id.trim().to_ascii_lowercase();
        if Uuid::try_parse(&name).is_err() && !is_domain(&name) {
            return Err(MicrosoftError::input(OPERATION, BadInput::Tenant));
        }
        let path = [name.as_str(), "v2.0", ".well-known", "openid-configuration"];
        let request = call::get(OPERATION, &self.url(&path))?;
        let answer = call::send(&*self.transport, OPERATION, request, Limits::TOKEN).await?;
        if answer.status != http::StatusCode::OK {
            return Err(refusal(OPERATION, &answer));
        }
        let document = answer.json(OPERATION)?;
        let tenant = document["issuer"]
            .as_str()
            .and_then(tenant_of_issuer)
            .ok_or_else(|| MicrosoftError::body(OPERATION, BadAnswer::Missing("issuer")))?;
        if tenant == PERSONAL_ACCOUNTS {
            return Err(MicrosoftError::input(OPERATION, BadInput::PersonalAccounts));
        }
        let word = |name: &str| document[name].as_str().and_then(headers::token);
        Ok(Discovered {
            tenant,
            graph_host: word("msgraph_host"),
            region: word("tenant_region_scope"),
        })
    }

    /// An application token by client credentials, for the permissions an administrator has granted.
    pub async fn app_token(&self, tenant: TenantId) -> Result<AccessToken, MicrosoftError> {
        self.with_any(Operation::AppToken, |credential| {
            self.app_token_by(credential, tenant).boxed()
        })
        .await
    }

    async fn app_token_by(
        &self,
        credential: &Credential,
        tenant: TenantId,
    ) -> Result<AccessToken, MicrosoftError> {
        const OPERATION: Operation = Operation::AppToken;
        let sent_at = self.clock.now();
        let (client, proof) = self.client(credential, OPERATION, &tenant.to_string())?;
        let exchange = Exchange::new(self, OPERATION);
        let mut request = client
            .exchange_client_credentials()
            .add_scope(Scope::new(self.scope(".default")));
        for (name, value) in proof {
            request = request.add_extra_param(name, value);
        }
        let tokens = exchange.finish(request.request_async(&exchange).await)?;
        Ok(tokens.access(sent_at))
    }

    /// An access token by refresh token, which is spent at most once.
    ///
    /// A refresh token in the answer takes the place of the one used; without one, the one used stays good.
    pub async fn refresh(
        &self,
        tenant: TenantId,
        refresh_token: &Secret,
    ) -> Result<Refreshed, MicrosoftError> {
        let refresh_token = &RefreshToken::new(refresh_token.expose().to_owned());
        self.with_any(Operation::Refresh, |credential| {
            self.refresh_by(credential, tenant, refresh_token.clone())
                .boxed()
        })
        .await
    }

    async fn refresh_by(
        &self,
        credential: &Credential,
        tenant: TenantId,
        refresh_token: RefreshToken,
    ) -> Result<Refreshed, MicrosoftError> {
        const OPERATION: Operation = Operation::Refresh;
        let sent_at = self.clock.now();
        let (client, proof) = self.client(credential, OPERATION, &tenant.to_string())?;
        let exchange = Exchange::new(self, OPERATION);
        let mut request = client
            .exchange_refresh_token(&refresh_token)
            .add_scopes(DELEGATED.map(|name| Scope::new(self.scope(name))))
            .add_scopes(["offline_access", "openid", "profile"].map(|s| Scope::new(s.to_owned())));
        for (name, value) in proof {
            request = request.add_extra_param(name, value);
        }
        let tokens = exchange.finish(request.request_async(&exchange).await)?;
        Ok(Refreshed {
            access: tokens.access(sent_at),
            refresh_token: tokens
                .refresh_token
                .as_ref()
                .map(|token| Secret::new(token.secret().as_str())),
        })
    }

    /// The OAuth client of an authority, and the parameters that prove who we are where it does not do so itself.
    fn client(
        &self,
        credential: &Credential,
        operation: Operation,
        authority: &str,
    ) -> Result<(Client, Proof), MicrosoftError> {
        let url = self.url(&[authority, "oauth2", "v2.0", "token"]);
        let mut proof = Vec::new();
        let mut client = oauth2::Client::new(ClientId::new(self.client_id.to_string()))
            .set_auth_type(AuthType::RequestBody);
        match &credential.signer {
            Signer::Secret(secret) => {
                client = client.set_client_secret(ClientSecret::new(secret.expose().to_owned()));
            }
            Signer::Certificate { key, thumbprint } => {
                let assertion = self
                    .assertion(&url, key, thumbprint)
                    .map_err(|_| MicrosoftError::input(operation, BadInput::Credential))?;
                proof = vec![
                    (
                        "client_assertion_type",
                        "urn:ietf:params:oauth:client-assertion-type:jwt-bearer".to_owned(),
                    ),
                    ("client_assertion", assertion),
                ];
            }
        }
        Ok((client.set_token_uri(TokenUrl::from_url(url)), proof))
    }

    /// A `private_key_jwt`. `entra-oauth.md` §4.
    fn assertion(
        &self,
        audience: &Url,
        key: &EncodingKey,
        thumbprint: &str,
    ) -> Result<String, jsonwebtoken::errors::Error> {
        let now = self.clock.now();
        let mut header = Header::new(Algorithm::PS256);
        header.x5t_s256 = Some(thumbprint.to_owned());
        let claims = serde_json::json!({
            "aud": audience.as_str(),
            "iss": self.client_id,
            "sub": self.client_id,
            "jti": Uuid::new_v4(),
            "iat": now.as_secs(),
            "nbf": now.as_secs(),
            "exp": now.plus(ASSERTION_LIFE).as_secs(),
        });
        jsonwebtoken::encode(&header, &claims, key)
    }

    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.login_root.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }

    fn scope(&self, name: &str) -> String {
        format!("{}/{name}", self.graph_root.as_str().trim_end_matches('/'))
    }
}

/// `^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}$`, 4 to 253 bytes. `security-and-faults.md` §4.
fn is_domain(name: &str) -> bool {
    let Some((rest, top)) = name.rsplit_once('.') else {
        return false;
    };
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    (4..=253).contains(&name.len())
        && rest.split('.').all(label)
        && (2..=63).contains(&top.len())
        && top.bytes().all(|b| b.is_ascii_lowercase())
}

fn tenant_of_issuer(issuer: &str) -> Option<TenantId> {
    Url::parse(issuer)
        .ok()?
        .path_segments()?
        .find_map(|segment| segment.parse().ok())
}

/// One exchange with the token endpoint: our transport in the shape the `oauth2` crate wants.
///
/// What that crate could not tell apart is caught here: throttling and server errors with their `Retry-After`.
struct Exchange {
    transport: Arc<dyn HttpTransport>,
    operation: Operation,
    /// What came back, without its body.
    head: Mutex<Option<Answer>>,
}

/// An error already named, in the shape the `oauth2` crate wants.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Named(MicrosoftError);

impl Exchange {
    fn new(entra: &Entra, operation: Operation) -> Self {
        Self {
            transport: entra.transport.clone(),
            operation,
            head: Mutex::new(None),
        }
    }

    fn finish(
        &self,
        result: Result<Tokens, RequestTokenError<Named, Refusal>>,
    ) -> Result<Tokens, MicrosoftError> {
        let head = self
            .head
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match (result, head) {
            (Ok(tokens), _) => Ok(tokens),
            (Err(RequestTokenError::Request(Named(error))), _) => Err(error),
            (Err(RequestTokenError::ServerResponse(refusal)), Some(head)) => {
                Err(refusal.into_error(self.operation, &head))
            }
            // An error status without OAuth's words: what is in front of Entra spoke.
            (Err(_), Some(head)) if head.status != http::StatusCode::OK => {
                Err(head.error(self.operation))
            }
            // The parts of a body that failed to parse may hold a token: nothing of them goes on.
            (Err(_), _) => Err(MicrosoftError::body(self.operation, BadAnswer::NotJson)),
        }
    }
}

impl<'c> oauth2::AsyncHttpClient<'c> for Exchange {
    type Error = Named;
    type Future = Pin<Box<dyn Future<Output = Result<oauth2::HttpResponse, Named>> + Send + 'c>>;

    fn call(&'c self, request: oauth2::HttpRequest) -> Self::Future {
        Box::pin(async move {
            let operation = self.operation;
            let answer = call::send(
                &*self.transport,
                operation,
                request.map(Bytes::from),
                Limits::TOKEN,
            )
            .await
            .map_err(Named)?;
            if answer.status.as_u16() == 429 || answer.status.is_server_error() {
                return Err(Named(refusal(operation, &answer)));
            }
            let mut response = http::Response::new(answer.body.to_vec());
            *response.status_mut() = answer.status;
            *response.headers_mut() = answer.headers.clone();
            *self.head.lock().unwrap_or_else(PoisonError::into_inner) = Some(Answer {
                body: Bytes::new(),
                ..answer
            });
            Ok(response)
        })
    }
}

/// The error of an answer with an error status: in OAuth's words where it has them.
fn refusal(operation: Operation, answer: &Answer) -> MicrosoftError {
    match serde_json::from_slice::<Refusal>(&answer.body) {
        Ok(refusal) => refusal.into_error(operation, answer),
        Err(_) => answer.error(operation),
    }
}

/// Entra's error body; the description, which may name people, is not kept. `entra-oauth.md` §3.
#[derive(Debug, Deserialize, Serialize)]
struct Refusal {
    error: String,
    #[serde(default)]
    error_codes: Value,
    #[serde(default)]
    suberror: Value,
    #[serde(default)]
    claims: Value,
    #[serde(default)]
    trace_id: Value,
    #[serde(default)]
    correlation_id: Value,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&headers::token(&self.error).unwrap_or_default())
    }
}

impl ErrorResponse for Refusal {}

impl Refusal {
    fn into_error(self, operation: Operation, answer: &Answer) -> MicrosoftError {
        let word = |value: &Value| value.as_str().and_then(headers::token);
        let codes = self.error_codes.as_array().into_iter().flatten();
        MicrosoftError::OAuth(Box::new(OAuthError {
            operation,
            status: answer.status.as_u16(),
            error: headers::token(&self.error).unwrap_or_default(),
            codes: codes.filter_map(Value::as_u64).take(8).collect(),
            suberror: word(&self.suberror).unwrap_or_default(),
            claims: self.claims.as_str().map(str::to_owned),
            trace_id: word(&self.trace_id)
                .or_else(|| headers::id(&answer.headers, "x-ms-request-id")),
            correlation_id: word(&self.correlation_id)
                .or_else(|| Some(answer.client_request_id.clone())),
            retry_after: headers::retry_after(&answer.headers),
        }))
    }
}

/// Entra's answer with tokens, read leniently. `entra-oauth.md` §3.
#[derive(Debug, Deserialize, Serialize)]
struct Tokens {
    access_token: oauth2::AccessToken,
    #[serde(default = "bearer")]
    token_type: BasicTokenType,
    #[serde(default, deserialize_with = "lenient_seconds")]
    expires_in: Option<u64>,
    #[serde(default)]
    refresh_token: Option<RefreshToken>,
    #[serde(default)]
    id_token: Option<String>,
    #[serde(default, rename = "scope", deserialize_with = "words")]
    scopes: Vec<Scope>,
}

fn bearer() -> BasicTokenType {
    BasicTokenType::Bearer
}

fn lenient_seconds<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    Ok(match Value::deserialize(from)? {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    })
}

fn words<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Scope>, D::Error> {
    let text = Option::<String>::deserialize(from)?.unwrap_or_default();
    let words = text.split_whitespace();
    Ok(words.map(|word| Scope::new(word.to_owned())).collect())
}

impl TokenResponse for Tokens {
    type TokenType = BasicTokenType;

    fn access_token(&self) -> &oauth2::AccessToken {
        &self.access_token
    }

    fn token_type(&self) -> &BasicTokenType {
        &self.token_type
    }

    fn expires_in(&self) -> Option<Duration> {
        self.expires_in.map(Duration::from_secs)
    }

    fn refresh_token(&self) -> Option<&RefreshToken> {
        self.refresh_token.as_ref()
    }

    fn scopes(&self) -> Option<&Vec<Scope>> {
        Some(&self.scopes)
    }
}

impl Tokens {
    fn access(&self, sent_at: Timestamp) -> AccessToken {
        let life = self.expires_in().unwrap_or(SHORTEST_LIFE);
        AccessToken {
            secret: Secret::new(self.access_token.secret().as_str()),
            expires_at: sent_at.plus(life.min(LONGEST_LIFE)),
            scopes: self.scopes.iter().map(|s| s.to_string()).collect(),
        }
    }
}

#[cfg(test)]
mod tests;
