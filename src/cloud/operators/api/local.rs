//! How the command line proves that it may read the key file: who can, may do everything.
//!
//! A proof is good for one request and at most two minutes. It names the account of the machine for the audit log, and is
//! authenticated with a key derived from the key-encryption key; the key itself goes nowhere. Every key of the file is accepted as it
//! stands at that moment, so that a rotation disturbs nobody and a retired key opens nothing.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::model::Timestamp;
use crate::secret::{KeyRing, SealError, Secret, random_token};

/// What every proof begins with.
pub const PREFIX: &str = "pbl_";

/// For what keys are derived here.
const PURPOSE: &str = "command line to admin API, v1";

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

#[derive(Serialize, Deserialize)]
struct Claims {
    /// The account of the machine.
    actor: String,
    issued: Timestamp,
    expires: Timestamp,
    /// Makes each another.
    nonce: String,
}

/// A proof for one request of this account.
pub fn prove(keys: &KeyRing, actor: &str, now: Timestamp) -> Result<Secret, SealError> {
    let claims = Claims {
        actor: actor.into(),
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

/// Who proves himself with this. `None`: nobody, for whatever reason.
pub fn check(keys: &KeyRing, token: &str, now: Timestamp) -> Result<Option<Proven>, SealError> {
    if token.len() > MOST_BYTES {
        return Ok(None);
    }
    let parts = token.strip_prefix(PREFIX).and_then(|t| t.split_once('.'));
    let Some((body, mac)) = parts else {
        return Ok(None);
    };
    let (Ok(claims), Ok(mac)) = (URL_SAFE_NO_PAD.decode(body), URL_SAFE_NO_PAD.decode(mac)) else {
        return Ok(None);
    };
    // In constant time, and with each key.
    let mut right = false;
    for key in keys.derived(PURPOSE)? {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &*key);
        right |= hmac::verify(&key, body.as_bytes(), &mac).is_ok();
    }
    let claims: Option<Claims> = serde_json::from_slice(&claims).ok();
    let Some(claims) = claims.filter(|_| right) else {
        return Ok(None);
    };
    let in_time = claims.issued <= now.plus(AHEAD)
        && now < claims.expires
        && claims.issued.until(claims.expires) <= LONGEST;
    let plain = claims.actor.len() <= 64 && claims.actor.bytes().all(|b| b.is_ascii_graphic());
    Ok((in_time && plain).then_some(Proven {
        actor: claims.actor,
        until: claims.expires,
        mac,
    }))
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

    fn who(ring: &KeyRing, token: &str, at: Timestamp) -> Option<String> {
        check(ring, token, at).unwrap().map(|p| p.actor)
    }

    #[test]
    fn who_can_read_the_key_file_is_believed_for_a_minute_and_once() {
        let (_folder, ring) = ring();
        let token = prove(&ring, "root", NOW).unwrap();
        assert_eq!(who(&ring, token.expose(), NOW).as_deref(), Some("root"));
        assert_eq!(who(&ring, token.expose(), NOW.plus(LIFE)), None);
        assert_eq!(
            who(&ring, token.expose(), NOW.minus(LIFE)),
            None,
            "not yet issued"
        );
        let (seen, proven) = (Seen::default(), check(&ring, token.expose(), NOW).unwrap());
        let proven = proven.unwrap();
        assert!(seen.first(&proven, NOW));
        assert!(!seen.first(&proven, NOW));
    }

    #[test]
    fn one_of_another_machine_and_a_changed_one_are_refused() {
        let (_folder, ring) = ring();
        let (_other_folder, other) = self::ring();
        let foreign = prove(&other, "root", NOW).unwrap();
        assert_eq!(who(&ring, foreign.expose(), NOW), None);
        let token = prove(&ring, "root", NOW).unwrap();
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
    fn nobody_gives_himself_more_time_or_a_name_that_is_none() {
        let (_folder, ring) = ring();
        let key = ring.derived(PURPOSE).unwrap();
        let of = |actor: &str, life: Duration| Claims {
            actor: actor.into(),
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
        let before = prove(&ring, "root", NOW).unwrap();
        let file = KeyFile::lock(&folder.path().join("key")).unwrap();
        file.add_key().unwrap();
        let after = prove(&ring, "root", NOW).unwrap();
        assert!(who(&ring, before.expose(), NOW).is_some());
        assert!(who(&ring, after.expose(), NOW).is_some());
        file.drop_earlier_keys().unwrap();
        assert!(who(&ring, before.expose(), NOW).is_none());
        assert!(who(&ring, after.expose(), NOW).is_some());
    }
}
