//! What the issuer says about itself: its discovery document, read with suspicion.

use jsonwebtoken::Algorithm;
use oauth2::AuthType;
use serde::Deserialize;
use url::Url;

use super::OidcError;
use crate::config::cloud::is_loopback;

/// How id tokens may be signed: with a key pair, never with a shared secret.
pub const ALGORITHMS: [Algorithm; 4] = [
    Algorithm::RS256,
    Algorithm::PS256,
    Algorithm::ES256,
    Algorithm::EdDSA,
];

/// What is needed of the document. OpenID Connect Discovery 1.0 §3, RFC 8414 §2.
#[derive(Deserialize)]
struct Document {
    issuer: String,
    authorization_endpoint: Url,
    token_endpoint: Url,
    jwks_uri: Url,
    #[serde(default)]
    end_session_endpoint: Option<Url>,
    #[serde(default)]
    response_types_supported: Option<Vec<String>>,
    #[serde(default)]
    code_challenge_methods_supported: Option<Vec<String>>,
    #[serde(default)]
    id_token_signing_alg_values_supported: Option<Vec<String>>,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

/// An issuer's addresses and ways, checked.
#[derive(Debug, Clone)]
pub struct Description {
    /// Where people sign in.
    pub authorization: Url,
    /// Where codes are redeemed.
    pub token: Url,
    /// Where its keys are.
    pub keys: Url,
    /// Where people sign out of it, if it has that.
    pub end_session: Option<Url>,
    /// How we say who we are where codes are redeemed.
    pub auth: AuthType,
    /// Whether it names itself when it sends people back (RFC 9207).
    pub names_itself: bool,
}

/// Where an issuer's document is.
pub fn address(issuer: &Url) -> Url {
    let mut url = issuer.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments
            .pop_if_empty()
            .extend([".well-known", "openid-configuration"]);
    }
    url
}

impl Description {
    /// Reads the document of this issuer. `with_secret`: whether we have one.
    pub fn read(
        body: &[u8],
        issuer: &str,
        issuer_url: &Url,
        with_secret: bool,
    ) -> Result<Self, OidcError> {
        let Document {
            issuer: named,
            authorization_endpoint: authorization,
            token_endpoint: token,
            jwks_uri: keys,
            end_session_endpoint: end_session,
            response_types_supported: answers,
            code_challenge_methods_supported: challenges,
            id_token_signing_alg_values_supported: algorithms,
            token_endpoint_auth_methods_supported: ways,
            authorization_response_iss_parameter_supported: names_itself,
        } = serde_json::from_slice(body)
            .map_err(|_| OidcError::Discovery("lacks what it must say, or is no JSON"))?;
        if named != issuer {
            return Err(OidcError::Discovery(
                "names another issuer; [oidc] issuer must be letter by letter what it says",
            ));
        }
        // Only an issuer on this machine may lead to this machine without TLS.
        let fits = |url: &Url| {
            let plain = url.scheme() == "http" && is_loopback(url) && is_loopback(issuer_url);
            (url.scheme() == "https" || plain)
                && url.has_host()
                && url.username().is_empty()
                && url.password().is_none()
                && url.fragment().is_none()
        };
        if ![&authorization, &token, &keys].into_iter().all(fits) {
            return Err(OidcError::Discovery("names an address that is not https"));
        }
        let lacks = |list: Option<Vec<String>>, any_of: &[&str]| {
            list.is_some_and(|list| !list.iter().any(|one| any_of.contains(&one.as_str())))
        };
        if lacks(answers, &["code"]) {
            return Err(OidcError::Discovery("does not offer the code flow"));
        }
        // Some issuers check PKCE and do not say so; who says otherwise does not.
        if lacks(challenges, &["S256"]) {
            return Err(OidcError::Discovery("does not offer PKCE with S256"));
        }
        if lacks(algorithms, &["RS256", "PS256", "ES256", "EdDSA"]) {
            return Err(OidcError::Discovery(
                "signs by none of RS256, PS256, ES256 and EdDSA",
            ));
        }
        Ok(Self {
            authorization,
            token,
            keys,
            end_session: end_session.filter(|url| fits(url)),
            auth: auth(ways, with_secret)?,
            names_itself,
        })
    }
}

/// How we say who we are. Without a list, an issuer takes `client_secret_basic`. OpenID Connect Discovery 1.0 §3.
fn auth(ways: Option<Vec<String>>, with_secret: bool) -> Result<AuthType, OidcError> {
    let Some(ways) = ways.filter(|_| with_secret) else {
        return Ok(if with_secret {
            AuthType::BasicAuth
        } else {
            AuthType::RequestBody
        });
    };
    let offers = |way: &str| ways.iter().any(|one| one == way);
    if offers("client_secret_basic") {
        Ok(AuthType::BasicAuth)
    } else if offers("client_secret_post") {
        Ok(AuthType::RequestBody)
    } else {
        Err(OidcError::Discovery(
            "takes a client secret neither by client_secret_basic nor by client_secret_post",
        ))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const ISSUER: &str = "https://login.example/realms/staff";

    fn document() -> Value {
        json!({
            "issuer": ISSUER,
            "authorization_endpoint": "https://login.example/authorize",
            "token_endpoint": "https://tokens.example/token",
            "jwks_uri": "https://login.example/keys",
        })
    }

    fn read(document: &Value) -> Result<Description, OidcError> {
        let url = Url::parse(ISSUER).unwrap();
        Description::read(document.to_string().as_bytes(), ISSUER, &url, true)
    }

    #[test]
    fn a_plain_document_is_enough() {
        let found = read(&document()).unwrap();
        assert!(matches!(found.auth, AuthType::BasicAuth) && !found.names_itself);
        assert!(found.end_session.is_none());
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        for (key, value, why) in [
            (
                "issuer",
                json!("https://login.example/realms/staff/"),
                "another issuer",
            ),
            ("issuer", json!("https://evil.example"), "another issuer"),
            (
                "token_endpoint",
                json!("http://login.example/t"),
                "not https",
            ),
            ("jwks_uri", json!("http://127.0.0.1/keys"), "not https"),
            (
                "authorization_endpoint",
                json!("javascript:alert(1)"),
                "not https",
            ),
            (
                "authorization_endpoint",
                json!("https://u:p@login.example/"),
                "not https",
            ),
            ("authorization_endpoint", json!(7), "lacks"),
            ("response_types_supported", json!(["id_token"]), "code flow"),
            ("code_challenge_methods_supported", json!(["plain"]), "PKCE"),
            (
                "id_token_signing_alg_values_supported",
                json!(["HS256", "none"]),
                "signs by none",
            ),
            (
                "token_endpoint_auth_methods_supported",
                json!(["private_key_jwt"]),
                "client secret",
            ),
        ] {
            let mut document = document();
            document[key] = value;
            let refused = read(&document).unwrap_err().to_string();
            assert!(refused.contains(why), "{key}: {refused}");
        }
    }

    #[test]
    fn the_document_lies_below_the_issuer() {
        for (issuer, at) in [
            (
                "https://a.example",
                "https://a.example/.well-known/openid-configuration",
            ),
            (
                "https://a.example/x/",
                "https://a.example/x/.well-known/openid-configuration",
            ),
        ] {
            assert_eq!(address(&Url::parse(issuer).unwrap()).as_str(), at);
        }
    }
}
