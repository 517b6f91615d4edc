use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;

use super::*;

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

const ALL: [Algorithm; 4] = [
    Algorithm::RS256,
    Algorithm::PS256,
    Algorithm::ES256,
    Algorithm::EdDSA,
];

fn pem(pkcs8: &[u8]) -> Vec<u8> {
    let text = STANDARD.encode(pkcs8);
    format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n").into_bytes()
}

/// A key for this algorithm, and how it is published.
fn pair(algorithm: Algorithm, kid: &str) -> (EncodingKey, Value) {
    let key = match algorithm {
        Algorithm::ES256 => {
            let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
            EncodingKey::from_ec_pem(&pem(pair.to_pkcs8v1().unwrap().as_ref()))
        }
        Algorithm::EdDSA => {
            let pair = Ed25519KeyPair::generate().unwrap();
            EncodingKey::from_ed_pem(&pem(pair.to_pkcs8v1().unwrap().as_ref()))
        }
        _ => {
            let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
            let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
            EncodingKey::from_rsa_pem(&pem(der.as_ref()))
        }
    };
    let key = key.unwrap();
    let mut jwk = serde_json::to_value(Jwk::from_encoding_key(&key, algorithm).unwrap()).unwrap();
    jwk["kid"] = json!(kid);
    (key, jwk)
}

fn signed(algorithm: Algorithm, kid: Option<&str>, key: &EncodingKey) -> String {
    let mut header = Header::new(algorithm);
    header.kid = kid.map(str::to_owned);
    jsonwebtoken::encode(&header, &json!({"sub": "s"}), key).unwrap()
}

fn read(keys: &SigningKeys, token: &str) -> Result<String, TokenError> {
    let head = Head::read(token, 4096, &ALL)?;
    let signed = keys.verify::<Value>(token, &head, NOW)?;
    Ok(signed.claims["sub"].as_str().unwrap().to_owned())
}

#[test]
fn each_algorithm_verifies_with_its_own_key_and_with_no_other() {
    let pairs = ALL.map(|one| pair(one, &format!("{one:?}")));
    let keys = SigningKeys::default();
    let published = json!({"keys": pairs.iter().map(|(_, jwk)| jwk).collect::<Vec<_>>()});
    assert!(keys.replace(&published, &ALL, NOW));
    for (algorithm, (key, _)) in ALL.iter().zip(&pairs) {
        for kid in ALL.map(|one| format!("{one:?}")) {
            let found = read(&keys, &signed(*algorithm, Some(&kid), key));
            if kid == format!("{algorithm:?}") {
                assert_eq!(found.as_deref(), Ok("s"), "{algorithm:?}");
            } else {
                assert_eq!(found, Err(TokenError::UnknownKey), "{algorithm:?} by {kid}");
            }
        }
    }
}

#[test]
fn a_token_that_names_no_key_is_by_the_only_one_or_by_nobody() {
    let (key, jwk) = pair(Algorithm::ES256, "one");
    let (_, other) = pair(Algorithm::ES256, "two");
    let keys = SigningKeys::default();
    assert!(keys.replace(&json!({"keys": [jwk]}), &ALL, NOW));
    let token = signed(Algorithm::ES256, None, &key);
    assert_eq!(read(&keys, &token).as_deref(), Ok("s"));
    assert!(keys.replace(&json!({"keys": [jwk, other]}), &ALL, NOW));
    assert_eq!(read(&keys, &token), Err(TokenError::UnknownKey));
}

#[test]
fn shared_secrets_and_nothing_at_all_are_no_signatures() {
    let (_, jwk) = pair(Algorithm::ES256, "one");
    let keys = SigningKeys::default();
    let secret = json!({"kty": "oct", "k": "c2VjcmV0", "alg": "HS256", "kid": "s"});
    assert!(!keys.replace(&json!({"keys": [secret]}), &ALL, NOW));
    assert!(keys.replace(&json!({"keys": [jwk, secret]}), &ALL, NOW));
    let by_secret = EncodingKey::from_secret(b"secret");
    let token = signed(Algorithm::HS256, Some("s"), &by_secret);
    assert_eq!(read(&keys, &token), Err(TokenError::Algorithm));
    let none = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJzIn0.";
    assert_eq!(read(&keys, none), Err(TokenError::Algorithm));
    assert_eq!(read(&keys, &"x".repeat(5000)), Err(TokenError::Malformed));
}

#[test]
fn keys_are_asked_for_when_unknown_or_old_and_not_too_often() {
    let (key, jwk) = pair(Algorithm::ES256, "one");
    let keys = SigningKeys::default();
    let head = |kid: &str| {
        let token = signed(Algorithm::ES256, Some(kid), &key);
        Head::read(&token, 4096, &ALL).unwrap()
    };
    assert!(keys.wants(&head("one"), NOW));
    keys.note_asked(NOW);
    assert!(keys.replace(&json!({"keys": [jwk]}), &ALL, NOW));
    assert!(!keys.wants(&head("one"), NOW));
    assert!(!keys.wants(&head("two"), NOW), "asked a moment ago");
    assert!(keys.wants(&head("two"), NOW.plus(ASK_AGAIN)));
    assert!(keys.wants(&head("one"), NOW.plus(FRESH)));
    assert!(keys.usable(NOW.plus(FRESH)) && !keys.usable(NOW.plus(USABLE)));
}
