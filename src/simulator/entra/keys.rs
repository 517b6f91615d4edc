//! The keys that sign id tokens. Made when first needed, as making RSA keys takes time.

use std::sync::{Mutex, PoisonError};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::der;
use crate::secret::sha256;

/// How many keys are published: the one that signs and the one before.
const PUBLISHED: usize = 2;

/// Newest first; the newest signs.
#[derive(Default)]
pub struct SigningKeys(Mutex<Vec<SigningKey>>);

struct SigningKey {
    pair: KeyPair,
    kid: String,
    modulus: String,
    exponent: String,
}

impl SigningKey {
    fn generate() -> Self {
        let pair = KeyPair::generate(KeySize::Rsa2048).expect("an RSA key can be made");
        let (modulus, exponent) =
            der::rsa_public_key(pair.public_key().as_ref()).expect("a public key is PKCS #1");
        Self {
            kid: URL_SAFE_NO_PAD.encode(&sha256(modulus)[..20]),
            modulus: URL_SAFE_NO_PAD.encode(modulus),
            exponent: URL_SAFE_NO_PAD.encode(exponent),
            pair,
        }
    }
}

impl SigningKeys {
    fn with<T>(&self, act: impl FnOnce(&mut Vec<SigningKey>) -> T) -> T {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while keys.len() < PUBLISHED {
            keys.push(SigningKey::generate());
        }
        act(&mut keys)
    }

    pub fn rotate(&self) {
        self.with(|keys| {
            keys.insert(0, SigningKey::generate());
            keys.truncate(PUBLISHED);
        });
    }

    /// The published keys, each with the issuer it may sign for.
    pub fn jwks(&self, issuer: &str) -> Value {
        self.with(|keys| {
            let keys = keys.iter().rev().map(|key| {
                json!({
                    "kty": "RSA", "use": "sig", "kid": key.kid, "x5t": key.kid,
                    "n": key.modulus, "e": key.exponent, "issuer": issuer,
                })
            });
            json!({ "keys": keys.collect::<Vec<_>>() })
        })
    }

    /// A signed JWT (RS256), with a header such as a forger may want.
    pub fn sign(&self, claims: &Value, typ: &str, kid: Option<&str>) -> String {
        self.with(|keys| {
            let key = &keys[0];
            let header = json!({ "typ": typ, "alg": "RS256", "kid": kid.unwrap_or(&key.kid) });
            let message = jws_message(&header, claims);
            let mut signature = vec![0; key.pair.public_modulus_len()];
            key.pair
                .sign(
                    &RSA_PKCS1_SHA256,
                    &SystemRandom::new(),
                    message.as_bytes(),
                    &mut signature,
                )
                .expect("an RSA key can sign");
            format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
        })
    }
}

impl SigningKeys {
    /// A JWT whose "signature" everybody can make: HS256 with the published key, as PEM, for a secret.
    pub fn sign_hs256(&self, claims: &Value) -> String {
        self.with(|keys| {
            let key = &keys[0];
            let message = jws_message(
                &json!({ "typ": "JWT", "alg": "HS256", "kid": key.kid }),
                claims,
            );
            let der = base64::engine::general_purpose::STANDARD.encode(key.pair.public_key());
            let pem =
                format!("-----BEGIN RSA PUBLIC KEY-----\n{der}\n-----END RSA PUBLIC KEY-----\n");
            let secret = hmac::Key::new(hmac::HMAC_SHA256, pem.as_bytes());
            let tag = hmac::sign(&secret, message.as_bytes());
            format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
        })
    }
}

/// What is signed: header and claims.
pub fn jws_message(header: &Value, claims: &Value) -> String {
    format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header.to_string()),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    )
}
