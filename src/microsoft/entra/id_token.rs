//! Who signed in: the id token, verified. `entra-oauth.md` §5.
//!
//! Invariants: RS256 and nothing else; the key is one Microsoft publishes, fetched from the fixed login host; nothing in the token
//! is believed before its signature; the issuer must be that of the token's own tenant.

use jsonwebtoken::Algorithm;
use serde::Deserialize;
use url::Url;
use uuid::Uuid;

use super::{Entra, PERSONAL_ACCOUNTS};
use crate::microsoft::call;
use crate::microsoft::error::{BadAnswer, MicrosoftError, Operation};
use crate::microsoft::transport::Limits;
use crate::model::{TenantId, Timestamp, UserId};
use crate::secret::Secret;
pub use crate::signing_keys::SigningKeys;
use crate::signing_keys::{Head, TokenError, for_display, in_time};

/// Longest id token accepted, in bytes.
const MAX_BYTES: usize = 16 << 10;

/// How Microsoft signs.
const ALGORITHMS: [Algorithm; 1] = [Algorithm::RS256];

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

impl From<TokenError> for IdTokenError {
    fn from(e: TokenError) -> Self {
        match e {
            TokenError::Malformed => Self::Malformed,
            TokenError::Algorithm => Self::Algorithm,
            TokenError::UnknownKey => Self::UnknownKey,
            TokenError::Signature => Self::Signature,
        }
    }
}

impl Entra {
    /// Verifies an id token that came from the token endpoint for the sign-in with this nonce.
    pub async fn verify_id_token(
        &self,
        token: &str,
        nonce: &Secret,
    ) -> Result<SignedIn, IdTokenError> {
        let head = Head::read(token, MAX_BYTES, &ALGORITHMS)?;
        if head.kid.is_none() {
            return Err(IdTokenError::UnknownKey);
        }
        let now = self.clock.now();
        if self.keys.wants(&head, now)
            && let Err(failed) = self.fetch_signing_keys().await
            && !self.keys.usable(now)
        {
            return Err(IdTokenError::Keys(failed));
        }
        let signed = self.keys.verify::<Claims>(token, &head, now)?;
        let claims = signed.claims;
        let issuer = self.issuer(&claims.tid.to_string());
        if claims.iss != issuer {
            return Err(IdTokenError::Issuer);
        }
        // The issuer of a key is a template for all tenants, or one tenant's.
        let template = self.issuer("{tenantid}");
        if signed
            .issuer
            .is_some_and(|of_key| of_key != issuer && of_key != template)
        {
            return Err(IdTokenError::UnknownKey);
        }
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
        self.keys.note_asked(now);
        let url: Url = self.url(&["organizations", "discovery", "v2.0", "keys"]);
        let request = call::get(OPERATION, &url)?;
        let answer = call::send(&*self.transport, OPERATION, request, Limits::TOKEN).await?;
        let document = answer.json(OPERATION)?;
        if self.keys.replace(&document, &ALGORITHMS, now) {
            Ok(())
        } else {
            Err(MicrosoftError::body(OPERATION, BadAnswer::Missing("keys")))
        }
    }
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
    if !in_time(now, claims.exp, claims.nbf, claims.iat) {
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

#[cfg(test)]
mod tests;
