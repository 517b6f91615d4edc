//! Who signed in: the id token, verified. `entra-oauth.md` §5.
//!
//! Invariants: RS256 and nothing else; the key is one Microsoft publishes, fetched from the fixed login host; nothing in the token
//! is believed before its signature; the issuer must be that of the token's own tenant.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use url::Url;
use uuid::Uuid;

use super::{Entra, PERSONAL_ACCOUNTS};
use crate::microsoft::call;
use crate::microsoft::error::{BadAnswer, MicrosoftError, Operation};
use crate::microsoft::transport::Limits;
use crate::model::{TenantId, Timestamp, UserId};
use crate::secret::Secret;

/// Keys are fetched anew after this time. `security-and-faults.md` §4.
const FRESH: Duration = Duration::from_hours(12);

/// Keys of this age still verify when no newer ones can be had.
const USABLE: Duration = Duration::from_hours(24);

/// An unknown key makes us ask, but not more often than this.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// Tolerance for clocks that differ.
const SKEW: Duration = Duration::from_mins(5);

/// Longest id token accepted, in bytes.
const MAX_BYTES: usize = 16 << 10;

/// Longest name for people kept, in characters.
const MAX_NAME: usize = 100;

/// A person who has signed in. Identity is tenant and account; the rest is for display.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedIn {
    /// The organisation of the account.
    pub tenant: TenantId,
    /// The account: `oid`.
    pub account: UserId,
    /// The person's name, for display.
    pub name: Option<String>,
    /// The account's name, usually its UPN, for display and for the test read.
    pub username: Option<String>,
    /// Whether the account is a guest of the organisation it signed in to.
    pub guest: bool,
    /// Directory roles of the account, where our registration makes Microsoft tell them.
    pub roles: Option<Vec<Uuid>>,
}

impl std::fmt::Debug for SignedIn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SignedIn")
            .field("tenant", &self.tenant)
            .field("account", &self.account)
            .field("guest", &self.guest)
            .finish_non_exhaustive()
    }
}

/// Why an id token does not prove anything.
#[derive(Debug, thiserror::Error)]
pub enum IdTokenError {
    /// There is none.
    #[error("there is no id token")]
    Missing,
    /// Not a JWT, too long, or without the claims it must have.
    #[error("the id token is malformed")]
    Malformed,
    /// Signed otherwise than by RS256, or not at all.
    #[error("the id token is not signed as it must be")]
    Algorithm,
    /// Signed by a key that Microsoft does not publish, or not for this issuer.
    #[error("the key of the id token is unknown")]
    UnknownKey,
    /// The signature is wrong.
    #[error("the signature of the id token is wrong")]
    Signature,
    /// `iss` is not the issuer of `tid`.
    #[error("the id token was issued by somebody else")]
    Issuer,
    /// `aud` is another application.
    #[error("the id token is for another application")]
    Audience,
    /// The nonce is not ours.
    #[error("the id token belongs to another sign-in")]
    Nonce,
    /// Expired, or not valid yet.
    #[error("the id token is out of its time")]
    Time,
    /// A personal Microsoft account.
    #[error("the account is a personal one")]
    Personal,
    /// The keys could not be fetched.
    #[error("the signing keys could not be fetched")]
    Keys(#[source] MicrosoftError),
}

#[derive(Deserialize)]
struct Claims {
    aud: String,
    iss: String,
    tid: Uuid,
    oid: Uuid,
    exp: i64,
    nbf: i64,
    iat: i64,
    #[serde(default)]
    nonce: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    preferred_username: Option<String>,
    #[serde(default)]
    idp: Option<String>,
    #[serde(default)]
    wids: Option<Vec<Uuid>>,
}

struct PublishedKey {
    key: DecodingKey,
    /// The issuer it may sign for; a template for all tenants.
    issuer: Option<String>,
}

#[derive(Default)]
struct Known {
    keys: HashMap<String, PublishedKey>,
    fetched_at: Option<Timestamp>,
    asked_at: Option<Timestamp>,
}

/// The keys Microsoft publishes, as last fetched.
#[derive(Default)]
pub struct SigningKeys(Mutex<Known>);

impl SigningKeys {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Whether to ask for the keys before looking for this one.
    fn wants(&self, kid: &str, now: Timestamp) -> bool {
        let old = self.fetched_at.is_none_or(|at| at.until(now) >= FRESH);
        let may_ask = self.asked_at.is_none_or(|at| at.until(now) >= ASK_AGAIN);
        (old || !self.keys.contains_key(kid)) && (may_ask || self.fetched_at.is_none())
    }

    fn usable(&self, now: Timestamp) -> bool {
        self.fetched_at.is_some_and(|at| at.until(now) < USABLE)
    }
}

impl Entra {
    /// Verifies an id token that came from the token endpoint for the sign-in with this nonce.
    pub async fn verify_id_token(
        &self,
        token: &str,
        nonce: &Secret,
    ) -> Result<SignedIn, IdTokenError> {
        if token.len() > MAX_BYTES {
            return Err(IdTokenError::Malformed);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| IdTokenError::Algorithm)?;
        if header.alg != Algorithm::RS256 {
            return Err(IdTokenError::Algorithm);
        }
        let kid = header.kid.ok_or(IdTokenError::UnknownKey)?;
        let now = self.clock.now();
        if self.keys.known().wants(&kid, now)
            && let Err(failed) = self.fetch_signing_keys().await
            && !self.keys.known().usable(now)
        {
            return Err(IdTokenError::Keys(failed));
        }
        let claims = {
            let known = self.keys.known();
            let published = known
                .keys
                .get(&kid)
                .filter(|_| known.usable(now))
                .ok_or(IdTokenError::UnknownKey)?;
            let claims = signed_claims(token, &published.key)?;
            let issuer = self.issuer(&claims.tid.to_string());
            if claims.iss != issuer {
                return Err(IdTokenError::Issuer);
            }
            let template = self.issuer("{tenantid}");
            if published
                .issuer
                .as_ref()
                .is_some_and(|of_key| *of_key != issuer && *of_key != template)
            {
                return Err(IdTokenError::UnknownKey);
            }
            claims
        };
        check(claims, self.client_id, nonce, now)
    }

    fn issuer(&self, tenant: &str) -> String {
        format!(
            "{}/{tenant}/v2.0",
            self.login_root.as_str().trim_end_matches('/')
        )
    }

    async fn fetch_signing_keys(&self) -> Result<(), MicrosoftError> {
        const OPERATION: Operation = Operation::SigningKeys;
        let now = self.clock.now();
        self.keys.known().asked_at = Some(now);
        let url: Url = self.url(&["organizations", "discovery", "v2.0", "keys"]);
        let request = call::get(OPERATION, &url)?;
        let answer = call::send(&*self.transport, OPERATION, request, Limits::TOKEN).await?;
        let document = answer.json(OPERATION)?;
        let keys: HashMap<String, PublishedKey> = document["keys"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|key| {
                let text = |name: &str| key[name].as_str();
                let for_signing =
                    text("kty") == Some("RSA") && text("use").is_none_or(|u| u == "sig");
                let key_itself = DecodingKey::from_rsa_components(text("n")?, text("e")?).ok()?;
                for_signing.then(|| {
                    let issuer = text("issuer").map(str::to_owned);
                    let published = PublishedKey {
                        key: key_itself,
                        issuer,
                    };
                    Some((text("kid")?.to_owned(), published))
                })?
            })
            .collect();
        if keys.is_empty() {
            return Err(MicrosoftError::body(OPERATION, BadAnswer::Missing("keys")));
        }
        let mut known = self.keys.known();
        known.keys = keys;
        known.fetched_at = Some(now);
        Ok(())
    }
}

/// The claims, of whoever signed with this key. Times and names are checked later, by our own clock.
fn signed_claims(token: &str, key: &DecodingKey) -> Result<Claims, IdTokenError> {
    let mut validation = Validation::new(Algorithm::RS256);
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    jsonwebtoken::decode::<Claims>(token, key, &validation)
        .map(|decoded| decoded.claims)
        .map_err(|e| match e.kind() {
            jsonwebtoken::errors::ErrorKind::InvalidSignature => IdTokenError::Signature,
            _ => IdTokenError::Malformed,
        })
}

fn check(
    claims: Claims,
    client_id: Uuid,
    nonce: &Secret,
    now: Timestamp,
) -> Result<SignedIn, IdTokenError> {
    if Uuid::try_parse(&claims.aud).ok() != Some(client_id) {
        return Err(IdTokenError::Audience);
    }
    let ours = nonce.expose().as_bytes();
    let same = claims.nonce.is_some_and(|n| {
        aws_lc_rs::constant_time::verify_slices_are_equal(n.as_bytes(), ours).is_ok()
    });
    if !same {
        return Err(IdTokenError::Nonce);
    }
    let (now, skew) = (now.as_secs(), i64::try_from(SKEW.as_secs()).unwrap_or(0));
    if now >= claims.exp.saturating_add(skew)
        || now < claims.nbf.saturating_sub(skew)
        || now < claims.iat.saturating_sub(skew)
    {
        return Err(IdTokenError::Time);
    }
    let tenant = TenantId(claims.tid);
    if tenant == PERSONAL_ACCOUNTS {
        return Err(IdTokenError::Personal);
    }
    let username = claims.preferred_username.as_deref().map(for_display);
    let external = username
        .as_deref()
        .is_some_and(|name| name.to_ascii_uppercase().contains("#EXT#"));
    let guest = external || claims.idp.is_some_and(|idp| idp != claims.iss);
    Ok(SignedIn {
        tenant,
        account: UserId(claims.oid),
        name: claims
            .name
            .as_deref()
            .map(for_display)
            .filter(|n| !n.is_empty()),
        username: username.filter(|n| !n.is_empty()),
        guest,
        roles: claims.wids,
    })
}

fn for_display(text: &str) -> String {
    let printable = text.chars().filter(|c| !c.is_control());
    printable
        .take(MAX_NAME)
        .collect::<String>()
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests;
