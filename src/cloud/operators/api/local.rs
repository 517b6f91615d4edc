//! How the command line proves that it may read the key file: who can, may do everything.
//!
//! A proof is good for one request, at most two minutes, and as long as the service runs to which it is made. It names the account of
//! the machine for the audit log, the request (method, address and a hash of the body) and the start of the service, and is
//! authenticated with a key derived from the key-encryption key; the key itself goes nowhere. So whoever gets hold of one, by listening
//! where the service should, cannot have anything else done with it, nor the same again after a restart. Every key of the file is
//! accepted as it stands at that moment, so that a rotation disturbs nobody and a retired key opens nothing.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::model::Timestamp;
use crate::secret::{KeyRing, SealError, Secret, random_token, sha256};

/// What every proof begins with.
pub const PREFIX: &str = "pbl_";

/// For what keys are derived here.
const PURPOSE: &str = "command line to admin API, v2";

/// How long a proof is good.
const LIFE: Duration = Duration::from_mins(1);

/// How long one may say that it is good.
const LONGEST: Duration = Duration::from_mins(2);

/// A clock that was just set may have gone back by so much since.
const AHEAD: Duration = Duration::from_secs(5);

/// Most bytes of a proof.
const MOST_BYTES: usize = 1024;

/// Most proofs remembered as used: many more than anybody types in two minutes.
const MOST_SEEN: usize = 10_000;

/// In this header whoever is not signed in is told which start of the service it is.
pub const START: &str = "x-presence-start";

/// What a proof is for: one request to one start of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errand<'a> {
    /// The service's word for its start, from [`START`].
    pub start: &'a str,
    /// GET, POST or DELETE.
    pub method: &'a str,
    /// Path and query, as they are sent.
    pub target: &'a str,
    /// SHA-256 of the body.
    pub body: [u8; 32],
}

impl Errand<'_> {
    fn digest(&self) -> String {
        let body = URL_SAFE_NO_PAD.encode(self.body);
        let (start, method, target) = (self.start, self.method, self.target);
        // None of them holds a line end.
        let text = format!("{start}\n{method}\n{target}\n{body}");
        URL_SAFE_NO_PAD.encode(sha256(text.as_bytes()))
    }
}

#[derive(Serialize, Deserialize)]
struct Claims {
    /// The account of the machine.
    actor: String,
    /// Digest of what is asked of whom.
    errand: String,
    issued: Timestamp,
    expires: Timestamp,
    /// Makes each another.
    nonce: String,
}

/// A proof for one request of this account.
pub fn prove(
    keys: &KeyRing,
    actor: &str,
    errand: &Errand<'_>,
    now: Timestamp,
) -> Result<Secret, SealError> {
    let claims = Claims {
        actor: actor.into(),
        errand: errand.digest(),
        issued: now,
        expires: now.plus(LIFE),
        nonce: random_token(),
    };
    let keys = keys.derived(PURPOSE)?;
    Ok(sealed(&claims, &*keys[0]))
}

fn sealed(claims: &Claims, key: &[u8]) -> Secret {
    let claims = serde_json::to_vec(claims).unwrap_or_default();
    let body = URL_SAFE_NO_PAD.encode(claims);
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let mac = URL_SAFE_NO_PAD.encode(hmac::sign(&key, body.as_bytes()));
    Secret::new(format!("{PREFIX}{body}.{mac}"))
}

/// Somebody who may read the key file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// The account of the machine.
    pub actor: String,
    /// Until when the proof is good.
    pub until: Timestamp,
    /// What is remembered, so that it is not used again.
    mac: Vec<u8>,
}

/// What somebody says who sends a proof. Nothing of it is believed yet.
pub struct Said {
    claims: Claims,
    body: String,
    mac: Vec<u8>,
}

impl Said {
    /// What this proof says, if it could be good for this request now. Costs nothing: no file is read for who talks nonsense.
    pub fn read(token: &str, errand: &Errand<'_>, now: Timestamp) -> Option<Self> {
        if token.len() > MOST_BYTES {
            return None;
        }
        let (body, mac) = token.strip_prefix(PREFIX)?.split_once('.')?;
        let claims = URL_SAFE_NO_PAD.decode(body).ok()?;
        let claims: Claims = serde_json::from_slice(&claims).ok()?;
        let mac = URL_SAFE_NO_PAD.decode(mac).ok()?;
        let in_time = claims.issued <= now.plus(AHEAD)
            && now < claims.expires
            && claims.issued.until(claims.expires) <= LONGEST;
        let plain = claims.actor.len() <= 64 && claims.actor.bytes().all(|b| b.is_ascii_graphic());
        let body = body.to_owned();
        (in_time && plain && claims.errand == errand.digest()).then_some(Self { claims, body, mac })
    }

    /// Who it is, if he can read the key file. `None`: nobody.
    pub fn check(self, keys: &KeyRing) -> Result<Option<Proven>, SealError> {
        // In constant time, and with each key.
        let mut right = false;
        for key in keys.derived(PURPOSE)? {
            let key = hmac::Key::new(hmac::HMAC_SHA256, &*key);
            right |= hmac::verify(&key, self.body.as_bytes(), &self.mac).is_ok();
        }
        Ok(right.then_some(Proven {
            actor: self.claims.actor,
            until: self.claims.expires,
            mac: self.mac,
        }))
    }
}

/// The proofs that were used and could still be good.
#[derive(Default)]
pub struct Seen(Mutex<HashMap<Vec<u8>, Timestamp>>);

impl Seen {
    /// Whether it is the first time. What could not be remembered is not let in.
    pub fn first(&self, proven: &Proven, now: Timestamp) -> bool {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= MOST_SEEN {
            seen.retain(|_, until| now < *until);
        }
        seen.len() < MOST_SEEN && seen.insert(proven.mac.clone(), proven.until).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::KeyFile;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn ring() -> (tempfile::TempDir, KeyRing) {
        let folder = tempfile::tempdir().unwrap();
        let ring = KeyRing::create(&folder.path().join("key")).unwrap();
        (folder, ring)
    }

    const ERRAND: Errand<'static> = Errand {
        start: "first",
        method: "POST",
        target: "/api/v1/tenants/1/pause?x=1",
        body: [7; 32],
    };

    fn proof(ring: &KeyRing) -> Secret {
        prove(ring, "root", &ERRAND, NOW).unwrap()
    }

    fn check(ring: &KeyRing, token: &str, errand: &Errand<'_>, at: Timestamp) -> Option<Proven> {
        Said::read(token, errand, at)?.check(ring).unwrap()
    }

    fn who(ring: &KeyRing, token: &str, at: Timestamp) -> Option<String> {
        check(ring, token, &ERRAND, at).map(|p| p.actor)
    }

    #[test]
    fn who_can_read_the_key_file_is_believed_for_a_minute_and_once() {
        let (_folder, ring) = ring();
        let token = proof(&ring);
        assert_eq!(who(&ring, token.expose(), NOW).as_deref(), Some("root"));
        assert_eq!(who(&ring, token.expose(), NOW.plus(LIFE)), None);
        assert_eq!(
            who(&ring, token.expose(), NOW.minus(LIFE)),
            None,
            "not yet issued"
        );
        let (seen, proven) = (Seen::default(), check(&ring, token.expose(), &ERRAND, NOW));
        let proven = proven.unwrap();
        assert!(seen.first(&proven, NOW));
        assert!(!seen.first(&proven, NOW));
    }

    #[test]
    fn one_of_another_machine_and_a_changed_one_are_refused() {
        let (_folder, ring) = ring();
        let (_other_folder, other) = self::ring();
        let foreign = proof(&other);
        assert_eq!(who(&ring, foreign.expose(), NOW), None);
        let token = proof(&ring);
        let text = token.expose();
        for at in PREFIX.len()..text.len() {
            let mut changed = text.as_bytes().to_vec();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            if changed != text {
                assert_eq!(who(&ring, &changed, NOW), None, "changed at {at}");
            }
        }
        for nonsense in ["", "pbl_", "pbl_.", "pbl_e30.", &"pbl_".repeat(1000)] {
            assert_eq!(who(&ring, nonsense, NOW), None);
        }
    }

    #[test]
    fn a_proof_is_good_for_what_it_was_made_for_and_for_nothing_else() {
        let (_folder, ring) = ring();
        let token = proof(&ring);
        let good_for = |errand: Errand<'_>| check(&ring, token.expose(), &errand, NOW).is_some();
        assert!(good_for(ERRAND));
        let (start, method, target) = ("second", "DELETE", "/api/v1/tenants/2/pause?x=1");
        assert!(!good_for(Errand { start, ..ERRAND }), "after a restart");
        assert!(!good_for(Errand { method, ..ERRAND }));
        assert!(!good_for(Errand { target, ..ERRAND }));
        let target = "/api/v1/tenants/1/pause?x=2";
        assert!(!good_for(Errand { target, ..ERRAND }));
        let body = [8; 32];
        assert!(!good_for(Errand { body, ..ERRAND }));
    }

    #[test]
    fn nobody_gives_himself_more_time_or_a_name_that_is_none() {
        let (_folder, ring) = ring();
        let key = ring.derived(PURPOSE).unwrap();
        let of = |actor: &str, life: Duration| Claims {
            actor: actor.into(),
            errand: ERRAND.digest(),
            issued: NOW,
            expires: NOW.plus(life),
            nonce: "n".into(),
        };
        for (claims, good) in [
            (of("root", LONGEST), true),
            (of("root", LONGEST * 2), false),
            (of("a b", LIFE), false),
            (of(&"a".repeat(65), LIFE), false),
        ] {
            let token = sealed(&claims, &*key[0]);
            assert_eq!(who(&ring, token.expose(), NOW).is_some(), good);
        }
    }

    #[test]
    fn a_rotation_disturbs_nobody_and_a_retired_key_opens_nothing() {
        let (folder, ring) = ring();
        let before = proof(&ring);
        let file = KeyFile::lock(&folder.path().join("key")).unwrap();
        file.add_key().unwrap();
        let after = proof(&ring);
        assert!(who(&ring, before.expose(), NOW).is_some());
        assert!(who(&ring, after.expose(), NOW).is_some());
        file.drop_earlier_keys().unwrap();
        assert!(who(&ring, before.expose(), NOW).is_none());
        assert!(who(&ring, after.expose(), NOW).is_some());
    }
}
