//! Keys that somebody publishes (JWKS), and what is signed with them (JWT).
//!
//! Invariants: the algorithm is one of those the caller allows and the key is for, never "none" and never one with a shared secret;
//! a key is taken from what was published and never from the token; nothing in a token is given out before its signature was
//! verified. Times are judged by the caller's clock.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::model::Timestamp;

/// Keys are fetched anew after this time. `security-and-faults.md` §4.
const FRESH: Duration = Duration::from_hours(12);

/// Keys of this age still verify when no newer ones can be had.
const USABLE: Duration = Duration::from_hours(24);

/// An unknown key makes us ask, but not more often than this.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// Tolerance for clocks that differ.
pub const SKEW: Duration = Duration::from_mins(5);

/// Most keys kept of what was published.
const MOST_KEYS: usize = 100;

/// Why a token proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a JWT, too long, or without the claims it must have.
    #[error("the token is malformed")]
    Malformed,
    /// Signed otherwise than allowed, or not at all.
    #[error("the token is not signed as it must be")]
    Algorithm,
    /// Signed by a key that is not published, or that is for something else.
    #[error("the key of the token is unknown")]
    UnknownKey,
    /// The signature is wrong.
    #[error("the signature of the token is wrong")]
    Signature,
}

/// What a token says about its signature; nothing of it is proven.
#[derive(Debug, Clone)]
pub struct Head {
    /// Which key.
    pub kid: Option<String>,
    algorithm: Algorithm,
}

impl Head {
    /// Reads it, of a token of at most `longest` bytes signed by one of these algorithms.
    pub fn read(token: &str, longest: usize, allowed: &[Algorithm]) -> Result<Self, TokenError> {
        if token.len() > longest {
            return Err(TokenError::Malformed);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Algorithm)?;
        if !allowed.contains(&header.alg) {
            return Err(TokenError::Algorithm);
        }
        Ok(Self {
            kid: header.kid,
            algorithm: header.alg,
        })
    }
}

/// Claims that were signed by a published key.
#[derive(Debug)]
pub struct Signed<C> {
    /// What was signed.
    pub claims: C,
    /// The issuer the key may sign for, where the publisher says so.
    pub issuer: Option<String>,
}

#[derive(Clone)]
struct PublishedKey {
    kid: Option<String>,
    key: DecodingKey,
    algorithms: Vec<Algorithm>,
    issuer: Option<String>,
}

impl PublishedKey {
    /// One entry of a published set, if it is for signatures by one of these algorithms.
    fn read(entry: &Value, allowed: &[Algorithm]) -> Option<Self> {
        let text = |name: &str| entry[name].as_str();
        if text("use").is_some_and(|u| u != "sig") {
            return None;
        }
        let (key, fits): (_, &[Algorithm]) = match (text("kty")?, text("crv")) {
            ("RSA", _) => (
                DecodingKey::from_rsa_components(text("n")?, text("e")?).ok()?,
                &[Algorithm::RS256, Algorithm::PS256],
            ),
            ("EC", Some("P-256")) => (
                DecodingKey::from_ec_components(text("x")?, text("y")?).ok()?,
                &[Algorithm::ES256],
            ),
            ("OKP", Some("Ed25519")) => (
                DecodingKey::from_ed_components(text("x")?).ok()?,
                &[Algorithm::EdDSA],
            ),
            _ => return None,
        };
        let only = match text("alg") {
            // Newer sets name the curve instead.
            Some("Ed25519") => Some(Algorithm::EdDSA),
            Some(name) => Some(name.parse().ok()?),
            None => None,
        };
        let fits = fits.iter().copied();
        let algorithms: Vec<Algorithm> = fits
            .filter(|one| allowed.contains(one) && only.is_none_or(|only| only == *one))
            .collect();
        (!algorithms.is_empty()).then(|| Self {
            kid: text("kid").map(str::to_owned),
            key,
            algorithms,
            issuer: text("issuer").map(str::to_owned),
        })
    }
}

#[derive(Default)]
struct Known {
    keys: Vec<PublishedKey>,
    fetched_at: Option<Timestamp>,
    asked_at: Option<Timestamp>,
}

impl Known {
    /// The key of a token. One that names none is taken for the only one there is, if there is only one.
    fn find(&self, head: &Head) -> Option<&PublishedKey> {
        let mut fitting = self
            .keys
            .iter()
            .filter(|one| one.algorithms.contains(&head.algorithm))
            .filter(|one| head.kid.is_none() || one.kid == head.kid);
        let found = fitting.next()?;
        (head.kid.is_some() || fitting.next().is_none()).then_some(found)
    }

    fn usable(&self, now: Timestamp) -> bool {
        self.fetched_at.is_some_and(|at| at.until(now) < USABLE)
    }
}

/// The keys somebody publishes, as last fetched. Whoever holds them fetches; they say when.
#[derive(Default)]
pub struct SigningKeys(Mutex<Known>);

impl SigningKeys {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether to ask for the keys before looking for the one of this token.
    pub fn wants(&self, head: &Head, now: Timestamp) -> bool {
        let known = self.known();
        let old = known.fetched_at.is_none_or(|at| at.until(now) >= FRESH);
        let may_ask = known.asked_at.is_none_or(|at| at.until(now) >= ASK_AGAIN);
        (old || known.find(head).is_none()) && (may_ask || known.fetched_at.is_none())
    }

    /// Whether what was fetched last may still verify.
    pub fn usable(&self, now: Timestamp) -> bool {
        self.known().usable(now)
    }

    /// Somebody asks for the keys now.
    pub fn note_asked(&self, now: Timestamp) {
        self.known().asked_at = Some(now);
    }

    /// Takes a published set in place of the one before. False, and nothing was changed: there is no key in it that can be used.
    #[must_use]
    pub fn replace(&self, published: &Value, allowed: &[Algorithm], now: Timestamp) -> bool {
        let keys: Vec<PublishedKey> = published["keys"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|entry| PublishedKey::read(entry, allowed))
            .take(MOST_KEYS)
            .collect();
        if keys.is_empty() {
            return false;
        }
        let mut known = self.known();
        known.keys = keys;
        known.fetched_at = Some(now);
        true
    }

    /// The claims of a token, if one of these keys has signed it.
    pub fn verify<C: DeserializeOwned>(
        &self,
        token: &str,
        head: &Head,
        now: Timestamp,
    ) -> Result<Signed<C>, TokenError> {
        let published = {
            let known = self.known();
            let found = known.find(head).filter(|_| known.usable(now));
            found.cloned().ok_or(TokenError::UnknownKey)?
        };
        let mut validation = Validation::new(head.algorithm);
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let decoded = jsonwebtoken::decode::<C>(token, &published.key, &validation);
        let decoded = decoded.map_err(|e| match e.kind() {
            jsonwebtoken::errors::ErrorKind::InvalidSignature => TokenError::Signature,
            _ => TokenError::Malformed,
        })?;
        Ok(Signed {
            claims: decoded.claims,
            issuer: published.issuer,
        })
    }
}

/// Whether a token with these times, in seconds, is good at this moment.
pub fn in_time(now: Timestamp, exp: i64, nbf: i64, iat: i64) -> bool {
    let (now, skew) = (now.as_secs(), i64::try_from(SKEW.as_secs()).unwrap_or(0));
    now < exp.saturating_add(skew)
        && now >= nbf.saturating_sub(skew)
        && now >= iat.saturating_sub(skew)
}

/// A name out of a token, as it may be shown: nothing that cannot be seen, and not longer than a name.
pub fn for_display(text: &str) -> String {
    /// Longest name for people kept, in characters.
    const LONGEST: usize = 100;
    // Marks that turn the direction of writing would make one name look like another.
    let turns = |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
    let seen = text.chars().filter(|c| !c.is_control() && !turns(*c));
    seen.take(LONGEST).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests;
