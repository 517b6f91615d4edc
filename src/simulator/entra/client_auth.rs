//! How an application proves that it is itself: a secret, or an assertion signed with a certificate. `entra-oauth.md` §4.

use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use aws_lc_rs::signature::{
    RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use percent_encoding::percent_decode_str;
use serde_json::Value;
use uuid::Uuid;

use super::aadsts::Refusal;
use super::{Call, client_id, der};
use crate::model::Timestamp;
use crate::secret::sha256;
use crate::simulator::world::{App, Microsoft};

const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// How far clocks may be apart.
const SKEW: Duration = Duration::from_mins(5);

impl Microsoft {
    /// The application that sent this request.
    pub(super) fn authenticate(&self, call: &Call) -> Result<Uuid, Refusal> {
        if let Some((client, secret)) = basic(call) {
            return self.by_secret(&client, &secret);
        }
        if let Some(assertion) = call.field("client_assertion") {
            if call.field("client_assertion_type") != Some(JWT_BEARER) {
                return Err(Refusal::because(
                    900_144,
                    "The request body must contain the following parameter: 'client_assertion_type'.",
                ));
            }
            return self.by_assertion(call, assertion);
        }
        let client = call.field("client_id").ok_or_else(|| {
            Refusal::because(
                900_144,
                "The request body must contain the following parameter: 'client_id'.",
            )
        })?;
        match call.field("client_secret") {
            Some(secret) => self.by_secret(client, secret),
            None => self.app(client).and(Err(Refusal::new(7_000_218))),
        }
    }

    fn app(&self, client: &str) -> Result<App, Refusal> {
        client_id(client)
            .and_then(|id| self.inner.state().apps.get(&id).cloned())
            .ok_or_else(|| {
                Refusal::because(
                    700_016,
                    format!("Application with identifier '{client}' was not found in the directory. This can happen if the application has not been installed by the administrator of the tenant or consented to by any user in the tenant."),
                )
            })
    }

    fn by_secret(&self, client: &str, secret: &str) -> Result<Uuid, Refusal> {
        let app = self.app(client)?;
        let is = |known: &String| sha256(known.as_bytes()) == sha256(secret.as_bytes());
        if app.registration.secrets.iter().any(is) {
            Ok(app.registration.client_id)
        } else if app.expired_secrets.iter().any(is) {
            Err(Refusal::new(7_000_222))
        } else {
            Err(Refusal::new(7_000_215))
        }
    }

    fn by_assertion(&self, call: &Call, assertion: &str) -> Result<Uuid, Refusal> {
        let malformed = || Refusal::because(50_027, "JWT token is invalid or malformed.");
        let mut parts = assertion.split('.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(malformed());
        };
        let message = &assertion[..header.len() + 1 + claims.len()];
        let header = decode(header).ok_or_else(malformed)?;
        let claims = decode(claims).ok_or_else(malformed)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| malformed())?;
        let client = claims["iss"].as_str().ok_or_else(malformed)?;
        let app = self.app(client)?;
        let named = call.field("client_id").is_none_or(|id| id == client);
        if !named || claims["sub"] != claims["iss"] {
            return Err(Refusal::because(
                700_030,
                "Invalid certificate - subject name in certificate is not authorized: 'iss' and 'sub' must be the client id.",
            ));
        }
        self.check_signature(&app, &header, message, &signature)?;
        self.check_claims(call, app.registration.client_id, &claims)?;
        Ok(app.registration.client_id)
    }

    fn check_signature(
        &self,
        app: &App,
        header: &Value,
        message: &str,
        signature: &[u8],
    ) -> Result<(), Refusal> {
        let legacy = self.inner.switches().legacy_assertions;
        let thumbprint: fn(&[u8]) -> Vec<u8>;
        let wanted;
        let algorithm: &'static dyn VerificationAlgorithm = match header["alg"].as_str() {
            Some("PS256") => &RSA_PSS_2048_8192_SHA256,
            Some("RS256") if legacy => &RSA_PKCS1_2048_8192_SHA256,
            _ => {
                return Err(Refusal::because(
                    50_027,
                    "JWT token is invalid or malformed: unsupported signature algorithm.",
                ));
            }
        };
        if let Some(x5t) = header["x5t#S256"].as_str() {
            wanted = x5t;
            thumbprint = |der| sha256(der).to_vec();
        } else if let (true, Some(x5t)) = (legacy, header["x5t"].as_str()) {
            wanted = x5t;
            thumbprint = |der| digest(&SHA1_FOR_LEGACY_USE_ONLY, der).as_ref().to_vec();
        } else {
            return Err(Refusal::because(
                700_027,
                "Client assertion failed signature validation: the header names no certificate.",
            ));
        }
        let certificates = app.registration.certificates_pem.iter();
        let certificate = certificates
            .filter_map(|pem| certificate_der(pem))
            .find(|der| URL_SAFE_NO_PAD.encode(thumbprint(der)) == wanted.trim_end_matches('='))
            .ok_or_else(|| {
                Refusal::because(
                    700_027,
                    format!("The certificate with identifier used to sign the client assertion is not registered on application. [Reason - The key was not found., Thumbprint of key used by client: '{wanted}']"),
                )
            })?;
        der::public_key_of_certificate(&certificate)
            .map(|key| UnparsedPublicKey::new(algorithm, key))
            .and_then(|key| key.verify(message.as_bytes(), signature).ok())
            .ok_or(Refusal::new(700_027))
    }

    fn check_claims(&self, call: &Call, client: Uuid, claims: &Value) -> Result<(), Refusal> {
        let audiences = [
            Some(call.name.clone()),
            call.authority.tenant().map(|t| t.to_string()),
        ]
        .into_iter()
        .flatten()
        .map(|name| format!("{}/{name}/oauth2/v2.0/token", call.base));
        if !audiences
            .into_iter()
            .any(|a| claims["aud"].as_str() == Some(a.as_str()))
        {
            return Err(Refusal::because(
                50_027,
                "JWT token is invalid or malformed: 'aud' is not this token endpoint.",
            ));
        }
        let switches = self.inner.switches();
        let now = self.inner.clock.now();
        let time = |name: &str| claims[name].as_i64().map(Timestamp::from_secs);
        let outside = |what: &str| {
            Refusal::because(
                700_024,
                format!("Client assertion is not within its valid time range: {what}."),
            )
        };
        let expires = time("exp").ok_or_else(|| outside("no 'exp'"))?;
        if expires.plus(SKEW) < now {
            return Err(outside("'exp' has passed"));
        }
        if expires > now.plus(switches.assertion_life) {
            return Err(outside("'exp' is too far away"));
        }
        if ["nbf", "iat"]
            .into_iter()
            .filter_map(time)
            .any(|t| t > now.plus(SKEW))
        {
            return Err(outside("not valid yet"));
        }
        let id = claims["jti"].as_str().ok_or_else(|| {
            Refusal::because(50_027, "JWT token is invalid or malformed: no 'jti'.")
        })?;
        let mut state = self.inner.state();
        state.assertions.retain(|_, until| *until >= now);
        let seen = state
            .assertions
            .insert((client, id.to_owned()), expires.plus(SKEW));
        if seen.is_some() && switches.assertion_once {
            return Err(Refusal::because(
                50_013,
                "Assertion failed: an assertion with this 'jti' was used before.",
            ));
        }
        Ok(())
    }
}

/// Id and secret of a Basic header, decoded as RFC 6749 §2.3.1 wants.
fn basic(call: &Call) -> Option<(String, String)> {
    let header = call.headers.get(http::header::AUTHORIZATION)?;
    let (scheme, value) = header.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = String::from_utf8(STANDARD.decode(value.trim()).ok()?).ok()?;
    let (id, secret) = pair.split_once(':')?;
    let decoded = |text: &str| {
        percent_decode_str(&text.replace('+', " "))
            .decode_utf8_lossy()
            .into_owned()
    };
    Some((decoded(id), decoded(secret)))
}

fn decode(part: &str) -> Option<Value> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

/// The bytes of the first certificate in a PEM text.
fn certificate_der(pem: &str) -> Option<Vec<u8>> {
    let (_, rest) = pem.split_once("-----BEGIN CERTIFICATE-----")?;
    let (body, _) = rest.split_once("-----END CERTIFICATE-----")?;
    let body: String = body.chars().filter(|c| !c.is_whitespace()).collect();
    STANDARD.decode(body).ok()
}
