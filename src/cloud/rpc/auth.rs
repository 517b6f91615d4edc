//! Who is calling: suite JWTs. Design decision 10, `security-and-faults.md` §4.
//!
//! Invariants: one algorithm; keys are looked up by `kid` in our own store and nowhere else; every claim is required; every
//! refusal gives the same answer.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use moka::sync::Cache;
use serde::Deserialize;
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::clock::Clock;
use crate::cloud::listener::Peer;
use crate::cloud::store::{Store, SuiteKey};
use crate::model::{KeyId, SuiteId, TenantId, Timestamp};

/// Longest JWT.
const MAX_TOKEN_BYTES: usize = 4 << 10;

/// Longest life of a JWT.
const MAX_LIFE: Duration = Duration::from_mins(15);

/// By how much clocks may differ.
const SKEW: Duration = Duration::from_secs(30);

/// Failed attempts from one address within [`FAILURES_KEPT`] after which further ones get no better answer. What is right is accepted
/// all the same: many suites may come from one address.
const MAX_FAILURES: u32 = 10;

/// How long failures count.
const FAILURES_KEPT: Duration = Duration::from_mins(1);

/// Most addresses remembered.
const MAX_ADDRESSES: u64 = 100_000;

/// Most keys remembered.
const MAX_KEYS: u64 = 50_000;

/// A key is read from the store again after this time.
const KEY_KEPT: Duration = Duration::from_mins(1);

/// A suite that has proven who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SuiteIdentity {
    /// The suite.
    pub suite: SuiteId,
    /// Its tenant.
    pub tenant: TenantId,
    /// The key it proved itself with.
    pub key: KeyId,
    /// When the proof runs out.
    pub expires_at: Timestamp,
}

/// Why a JWT was refused. For our own log; the caller gets one answer for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No bearer token.
    #[error("no bearer token")]
    Missing,
    /// Not a JWT, or not one of ours.
    #[error("malformed, or not a suite's JWT")]
    Malformed,
    /// The key is unknown, the suite revoked, or the tenant gone.
    #[error("unknown or revoked key")]
    UnknownKey,
    /// The signature or a claim does not hold.
    #[error("signature or claims do not hold")]
    Invalid,
    /// Outside of its time.
    #[error("expired, not yet valid, or valid for too long")]
    Time,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    tid: String,
    jti: String,
    iat: i64,
    nbf: i64,
    exp: i64,
}

/// Checks a JWT against the key its `kid` names.
fn check_token(
    token: &str,
    key: &SuiteKey,
    audience: &str,
    now: Timestamp,
) -> Result<SuiteIdentity, Refused> {
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.set_issuer(&[key.suite.to_string()]);
    validation.set_audience(&[audience]);
    validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
    // Judged below, by our clock.
    validation.validate_exp = false;
    validation.validate_nbf = false;
    let public = DecodingKey::from_ed_components(&URL_SAFE_NO_PAD.encode(&key.public_key))
        .map_err(|_| Refused::UnknownKey)?;
    let claims = decode::<Claims>(token, &public, &validation)
        .map_err(|_| Refused::Invalid)?
        .claims;
    if claims.sub != key.suite.to_string()
        || claims.tid != key.tenant.to_string()
        || claims.jti.is_empty()
    {
        return Err(Refused::Invalid);
    }
    let [issued, not_before, expires] =
        [claims.iat, claims.nbf, claims.exp].map(Timestamp::from_secs);
    let in_time = issued <= now.plus(SKEW)
        && not_before <= now.plus(SKEW)
        && now < expires.plus(SKEW)
        && issued.until(expires) <= MAX_LIFE
        && issued < expires
        && key.valid_until.is_none_or(|until| now < until);
    if !in_time {
        return Err(Refused::Time);
    }
    let expires_at = key.valid_until.map_or(expires, |until| until.min(expires));
    Ok(SuiteIdentity {
        suite: key.suite,
        tenant: key.tenant,
        key: key.key,
        expires_at,
    })
}

/// The `kid` of a JWT that has the form of ours.
fn key_id(token: &str) -> Result<KeyId, Refused> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(Refused::Malformed);
    }
    let header = decode_header(token).map_err(|_| Refused::Malformed)?;
    // Headers that would make us fetch or believe a key, or that we would have to understand.
    let head = token
        .split('.')
        .next()
        .and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let head: serde_json::Map<String, serde_json::Value> = head
        .and_then(|json| serde_json::from_slice(&json).ok())
        .ok_or(Refused::Malformed)?;
    let ours = header.alg == Algorithm::EdDSA
        && header.typ.as_deref() == Some("suite+jwt")
        && head
            .keys()
            .all(|name| matches!(name.as_str(), "alg" | "typ" | "kid"));
    if !ours {
        return Err(Refused::Malformed);
    }
    header
        .kid
        .and_then(|kid| kid.parse().ok())
        .ok_or(Refused::Malformed)
}

/// Counts failures per address.
pub struct Failures(Cache<IpAddr, Arc<AtomicU32>>);

impl Default for Failures {
    fn default() -> Self {
        Self(
            Cache::builder()
                .max_capacity(MAX_ADDRESSES)
                .time_to_live(FAILURES_KEPT)
                .build(),
        )
    }
}

impl Failures {
    /// One more from there. An error when there were too many lately.
    pub fn note(&self, peer: Option<Peer>) -> Result<(), Status> {
        let Some(address) = peer.and_then(Peer::counted_as) else {
            return Ok(());
        };
        let before = self
            .0
            .get_with(address, Arc::default)
            .fetch_add(1, Ordering::Relaxed);
        if before >= MAX_FAILURES {
            return Err(Status::resource_exhausted(
                "too many failed attempts; come back in a minute",
            ));
        }
        Ok(())
    }
}

/// Checks the JWTs of suites.
pub struct Authenticator {
    store: Store,
    clock: Clock,
    audience: String,
    keys: Cache<KeyId, Arc<SuiteKey>>,
    /// Grows whenever keys are forgotten: what was read before is not kept.
    generation: AtomicU64,
    failures: Failures,
}

impl Authenticator {
    /// For JWTs with this audience.
    pub fn new(store: Store, clock: Clock, audience: String) -> Arc<Self> {
        let keys = Cache::builder()
            .max_capacity(MAX_KEYS)
            .time_to_live(KEY_KEPT)
            .build();
        Arc::new(Self {
            store,
            clock,
            audience,
            keys,
            generation: AtomicU64::new(0),
            failures: Failures::default(),
        })
    }

    /// `aud` of the JWTs.
    pub fn audience(&self) -> &str {
        &self.audience
    }

    /// The operator has changed something: keys are looked up anew.
    pub fn forget_keys(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.keys.invalidate_all();
    }

    /// A suite has changed one of its keys: that is looked up anew.
    pub fn forget_key(&self, key: KeyId) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.keys.invalidate(&key);
    }

    /// Keeps a key that was read in this generation.
    fn remember(&self, key: &Arc<SuiteKey>, generation: u64) {
        self.keys.insert(key.key, Arc::clone(key));
        if self.generation.load(Ordering::SeqCst) != generation {
            self.keys.invalidate(&key.key);
        }
    }

    /// Who sends this call.
    pub async fn identify(
        &self,
        metadata: &MetadataMap,
        peer: Option<Peer>,
    ) -> Result<SuiteIdentity, Status> {
        let token = metadata
            .get("authorization")
            .and_then(|value| value.to_str().ok())
            .and_then(|value| {
                value
                    .strip_prefix("Bearer ")
                    .or_else(|| value.strip_prefix("bearer "))
            });
        self.identify_token(token.unwrap_or_default(), peer).await
    }

    /// Who signed this JWT.
    pub async fn identify_token(
        &self,
        token: &str,
        peer: Option<Peer>,
    ) -> Result<SuiteIdentity, Status> {
        let refused = match self.check(token).await {
            Ok(Ok(identity)) => return Ok(identity),
            Ok(Err(refused)) => refused,
            Err(store) => {
                tracing::error!(error = %crate::cloud::tokens::chain(&store), "a suite's key could not be read");
                return Err(Status::unavailable(
                    "the service cannot check credentials just now; try again",
                ));
            }
        };
        self.failures.note(peer)?;
        tracing::info!(reason = %refused, "a suite's credential was refused");
        Err(Status::unauthenticated(
            "the credential was refused: check that the suite is enrolled and not revoked, and that its clock is right",
        ))
    }

    async fn check(
        &self,
        token: &str,
    ) -> Result<Result<SuiteIdentity, Refused>, crate::cloud::store::StoreError> {
        if token.is_empty() {
            return Ok(Err(Refused::Missing));
        }
        let kid = match key_id(token) {
            Ok(kid) => kid,
            Err(refused) => return Ok(Err(refused)),
        };
        let key = if let Some(key) = self.keys.get(&kid) {
            key
        } else {
            let generation = self.generation.load(Ordering::SeqCst);
            let Some(key) = self.store.suite_key(kid).await? else {
                return Ok(Err(Refused::UnknownKey));
            };
            let key = Arc::new(key);
            self.remember(&key, generation);
            key
        };
        Ok(check_token(token, &key, &self.audience, self.clock.now()))
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::{Value, json};

    use super::*;

    const NOW: i64 = 1_800_000_000;

    struct Suite {
        key: SuiteKey,
        signing: EncodingKey,
    }

    fn suite() -> Suite {
        let pair = Ed25519KeyPair::generate().unwrap();
        Suite {
            signing: EncodingKey::from_ed_der(pair.to_pkcs8v1().unwrap().as_ref()),
            key: SuiteKey {
                key: KeyId::random(),
                suite: SuiteId::random(),
                tenant: TenantId(uuid::Uuid::from_u128(5)),
                public_key: pair.public_key().as_ref().to_vec(),
                valid_until: None,
            },
        }
    }

    impl Suite {
        fn claims(&self) -> Value {
            let id = self.key.suite.to_string();
            json!({
                "iss": id, "sub": id, "aud": "presence-cloud", "tid": self.key.tenant.to_string(),
                "jti": "j1", "iat": NOW, "nbf": NOW, "exp": NOW + 600,
            })
        }

        fn header(&self) -> Header {
            let mut header = Header::new(Algorithm::EdDSA);
            header.typ = Some("suite+jwt".into());
            header.kid = Some(self.key.key.to_string());
            header
        }

        fn check(
            &self,
            header: &Header,
            claims: &Value,
            at: i64,
        ) -> Result<SuiteIdentity, Refused> {
            let token = encode(header, claims, &self.signing).unwrap();
            assert_eq!(key_id(&token)?, self.key.key);
            check_token(
                &token,
                &self.key,
                "presence-cloud",
                Timestamp::from_secs(at),
            )
        }
    }

    #[test]
    fn a_good_token_is_accepted_within_its_time_and_a_little_skew() {
        let s = suite();
        for at in [NOW - 30, NOW, NOW + 600, NOW + 629] {
            let identity = s.check(&s.header(), &s.claims(), at).unwrap();
            assert_eq!(
                (identity.suite, identity.tenant),
                (s.key.suite, s.key.tenant)
            );
        }
        for at in [NOW - 31, NOW + 630] {
            assert_eq!(s.check(&s.header(), &s.claims(), at), Err(Refused::Time));
        }
    }

    #[test]
    fn every_claim_is_required_and_must_fit() {
        let s = suite();
        for claim in ["iss", "sub", "aud", "tid", "jti", "iat", "nbf", "exp"] {
            let mut claims = s.claims();
            claims.as_object_mut().unwrap().remove(claim);
            assert_eq!(
                s.check(&s.header(), &claims, NOW),
                Err(Refused::Invalid),
                "without {claim}"
            );
        }
        for (claim, value) in [
            ("iss", json!("x")),
            ("sub", json!(SuiteId::random().to_string())),
            ("aud", json!("another")),
            ("tid", json!(TenantId(uuid::Uuid::from_u128(6)).to_string())),
            ("jti", json!("")),
        ] {
            let mut claims = s.claims();
            claims[claim] = value;
            assert_eq!(
                s.check(&s.header(), &claims, NOW),
                Err(Refused::Invalid),
                "other {claim}"
            );
        }
        for (claim, value) in [
            ("exp", NOW + 901),
            ("iat", NOW + 31),
            ("nbf", NOW + 31),
            ("exp", NOW),
        ] {
            let mut claims = s.claims();
            claims[claim] = json!(value);
            assert_eq!(
                s.check(&s.header(), &claims, NOW),
                Err(Refused::Time),
                "{claim} {value}"
            );
        }
    }

    #[test]
    fn headers_that_lead_elsewhere_are_refused() {
        let s = suite();
        let mut other_type = s.header();
        other_type.typ = Some("JWT".into());
        let mut no_kid = s.header();
        no_kid.kid = None;
        let mut jku = s.header();
        jku.jku = Some("https://evil.example/keys".into());
        for header in [other_type, no_kid, jku] {
            let token = encode(&header, &s.claims(), &s.signing).unwrap();
            assert_eq!(key_id(&token), Err(Refused::Malformed));
        }
        let good = encode(&s.header(), &s.claims(), &s.signing).unwrap();
        let (_, rest) = good.split_once('.').unwrap();
        for forged in [
            json!({"alg": "none", "typ": "suite+jwt", "kid": s.key.key.to_string()}),
            json!({"alg": "HS256", "typ": "suite+jwt", "kid": s.key.key.to_string()}),
            json!({"alg": "EdDSA", "typ": "suite+jwt", "kid": s.key.key.to_string(), "crit": ["x"], "x": 1}),
        ] {
            let token = format!("{}.{rest}", URL_SAFE_NO_PAD.encode(forged.to_string()));
            assert_eq!(key_id(&token), Err(Refused::Malformed), "{forged}");
        }
        assert_eq!(key_id(&"x".repeat(5000)), Err(Refused::Malformed));
    }

    #[test]
    fn another_key_s_signature_and_a_replaced_key_are_refused() {
        let (s, mut other) = (suite(), suite());
        other.key = s.key.clone();
        assert_eq!(
            other.check(&s.header(), &s.claims(), NOW),
            Err(Refused::Invalid)
        );
        let mut replaced = suite();
        replaced.key.valid_until = Some(Timestamp::from_secs(NOW + 5));
        let identity = replaced
            .check(&replaced.header(), &replaced.claims(), NOW)
            .unwrap();
        assert_eq!(identity.expires_at, Timestamp::from_secs(NOW + 5));
        assert_eq!(
            replaced.check(&replaced.header(), &replaced.claims(), NOW + 5),
            Err(Refused::Time)
        );
    }

    #[test]
    fn an_address_that_keeps_failing_is_told_to_rest_but_not_this_machine() {
        let failures = Failures::default();
        let peer = |text: &str| Some(Peer(text.parse().unwrap()));
        for n in 0..MAX_FAILURES {
            assert!(failures.note(peer(&format!("2001:db8::{}", n + 1))).is_ok());
        }
        assert_eq!(
            failures.note(peer("2001:db8::ffff")).unwrap_err().code(),
            tonic::Code::ResourceExhausted,
            "one host has a whole network of addresses"
        );
        assert!(failures.note(peer("2001:db8:1::1")).is_ok());
        // Behind a proxy everybody comes from this machine.
        for _ in 0..100 {
            assert!(failures.note(peer("127.0.0.1")).is_ok() && failures.note(None).is_ok());
        }
    }

    async fn authenticator() -> (tempfile::TempDir, Arc<Authenticator>) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("cloud.db")).await.unwrap();
        let auth = Authenticator::new(store, Clock::system(), "presence-cloud".into());
        (dir, auth)
    }

    #[tokio::test]
    async fn a_key_that_was_read_before_a_revocation_is_not_kept_after_it() {
        let (_dir, auth) = authenticator().await;
        let key = Arc::new(suite().key);
        let generation = auth.generation.load(Ordering::SeqCst);
        auth.forget_keys();
        auth.remember(&key, generation);
        assert!(auth.keys.get(&key.key).is_none());
        auth.remember(&key, generation + 1);
        assert!(auth.keys.get(&key.key).is_some());
        assert_eq!(auth.keys.policy().time_to_live(), Some(KEY_KEPT));
    }

    #[tokio::test]
    async fn those_who_fail_do_not_lock_out_their_neighbours() {
        let (_dir, auth) = authenticator().await;
        let peer = Some(Peer("192.0.2.1".parse().unwrap()));
        for _ in 0..=MAX_FAILURES {
            auth.identify_token("a.b.c", peer).await.unwrap_err();
        }
        let refused = auth.identify_token("a.b.c", peer).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        let mut suite = suite();
        suite.key.key = KeyId::random();
        auth.remember(
            &Arc::new(suite.key.clone()),
            auth.generation.load(Ordering::SeqCst),
        );
        let now = Clock::system().now().as_secs();
        let mut claims = suite.claims();
        for (claim, at) in [("iat", now), ("nbf", now), ("exp", now + 600)] {
            claims[claim] = json!(at);
        }
        let token = encode(&suite.header(), &claims, &suite.signing).unwrap();
        let identity = auth.identify_token(&token, peer).await.unwrap();
        assert_eq!(identity.suite, suite.key.suite);
    }
}
