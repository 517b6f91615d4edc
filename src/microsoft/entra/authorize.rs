//! Signing in and consenting in a browser: where to send people, and what they bring back. `entra-oauth.md` §2, §3, §6.
//!
//! Everybody signs in at `organizations`: whoever belongs to another organisation then comes back to us and is told so, instead
//! of being left on a page of Microsoft's. Which organisation it was is said by the verified id token and by nothing else.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::FutureExt as _;
use oauth2::{AuthorizationCode, PkceCodeVerifier, RedirectUrl, TokenResponse as _};
use url::Url;

use super::{
    AccessToken, Credential, DELEGATED, Entra, Exchange, IdTokenError, SignedIn, Tokens, headers,
};
use crate::microsoft::error::{BadInput, MicrosoftError, OAuthError, Operation};
use crate::model::TenantId;
use crate::secret::{Secret, sha256};

/// Accounts of every organisation, none of persons. `entra-oauth.md` §1.
const ORGANISATIONS: &str = "organizations";

/// What a sign-in asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Who it is, nothing else.
    Identity,
    /// The permissions of a service account, and a refresh token.
    ServiceAccount,
}

impl Ask {
    fn scope(self, entra: &Entra) -> String {
        let mut scopes = vec!["openid".to_owned(), "profile".to_owned()];
        if self == Self::ServiceAccount {
            scopes.push("offline_access".to_owned());
            scopes.extend(DELEGATED.map(|name| entra.scope(name)));
        }
        scopes.join(" ")
    }
}

/// A sign-in under way. Its secrets live in the person's browser and come back with it.
#[derive(Debug)]
pub struct SignIn<'a> {
    /// What is asked for.
    pub ask: Ask,
    /// Where Microsoft sends the browser back to, exactly as registered.
    pub redirect_uri: &'a Url,
    /// Must come back in the id token.
    pub nonce: &'a Secret,
    /// What the code is worth nothing without (PKCE): 43 to 128 letters.
    pub verifier: &'a Secret,
}

/// What a redeemed code brought.
#[derive(Debug)]
pub struct Authorized {
    /// Who signed in: verified.
    pub person: SignedIn,
    /// An access token of that person.
    pub access: AccessToken,
    /// A refresh token, if one was asked for and granted.
    pub refresh_token: Option<Secret>,
}

impl Entra {
    /// Where to send a browser to sign in. `choose` offers the choice between accounts even to who is signed in already;
    /// `claims` is what Microsoft demanded when it refused us before.
    pub fn sign_in_url(
        &self,
        sign_in: &SignIn<'_>,
        state: &str,
        choose: bool,
        claims: Option<&str>,
    ) -> Url {
        let mut url = self.url(&[ORGANISATIONS, "oauth2", "v2.0", "authorize"]);
        let challenge = URL_SAFE_NO_PAD.encode(sha256(sign_in.verifier.expose().as_bytes()));
        let mut query = url.query_pairs_mut();
        query
            .append_pair("client_id", &self.client_id.to_string())
            .append_pair("response_type", "code")
            .append_pair("redirect_uri", sign_in.redirect_uri.as_str())
            .append_pair("response_mode", "query")
            .append_pair("scope", &sign_in.ask.scope(self))
            .append_pair("state", state)
            .append_pair("nonce", sign_in.nonce.expose())
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256");
        if choose {
            query.append_pair("prompt", "select_account");
        }
        if let Some(claims) = claims {
            query.append_pair("claims", claims);
        }
        drop(query);
        url
    }

    /// Where to send an administrator to consent for an organisation, to all permissions our registration names.
    pub fn admin_consent_url(&self, tenant: TenantId, redirect_uri: &Url, state: &str) -> Url {
        let mut url = self.url(&[&tenant.to_string(), "v2.0", "adminconsent"]);
        url.query_pairs_mut()
            .append_pair("client_id", &self.client_id.to_string())
            .append_pair("redirect_uri", redirect_uri.as_str())
            .append_pair("state", state)
            .append_pair("scope", &self.scope(".default"));
        url
    }

    /// Trades the code of a sign-in for tokens, and verifies who it was. The code is spent at most once.
    pub async fn redeem(
        &self,
        sign_in: &SignIn<'_>,
        code: &str,
    ) -> Result<Authorized, RedeemError> {
        let sent_at = self.clock.now();
        let tokens = self
            .with_any(Operation::Redeem, |credential| {
                self.redeem_by(credential, sign_in, code).boxed()
            })
            .await?;
        let id_token = tokens.id_token.as_ref().ok_or(IdTokenError::Missing)?;
        let person = self.verify_id_token(id_token, sign_in.nonce).await?;
        Ok(Authorized {
            person,
            access: tokens.access(sent_at),
            refresh_token: tokens
                .refresh_token()
                .map(|token| Secret::new(token.secret().as_str())),
        })
    }

    async fn redeem_by(
        &self,
        credential: &Credential,
        sign_in: &SignIn<'_>,
        code: &str,
    ) -> Result<Tokens, MicrosoftError> {
        const OPERATION: Operation = Operation::Redeem;
        let (client, proof) = self.client(credential, OPERATION, ORGANISATIONS)?;
        let client = client.set_redirect_uri(RedirectUrl::from_url(sign_in.redirect_uri.clone()));
        let exchange = Exchange::new(self, OPERATION);
        let mut request = client
            .exchange_code(AuthorizationCode::new(code.to_owned()))
            .set_pkce_verifier(PkceCodeVerifier::new(sign_in.verifier.expose().to_owned()));
        for (name, value) in proof {
            request = request.add_extra_param(name, value);
        }
        exchange.finish(request.request_async(&exchange).await)
    }

    /// The origin to which forms may lead, for a page's content security policy.
    pub fn login_origin(&self) -> String {
        self.login_root.origin().ascii_serialization()
    }

    /// The host of the Graph this installation reads, to compare with [`super::Discovered::graph_host`].
    pub fn graph_host(&self) -> Option<String> {
        let host = self.graph_root.host_str()?;
        Some(match self.graph_root.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        })
    }
}

/// Why a code brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum RedeemError {
    /// Microsoft refused, or gave no usable answer.
    #[error(transparent)]
    Microsoft(#[from] MicrosoftError),
    /// The id token does not prove who signed in.
    #[error("the sign-in is not proven")]
    IdToken(#[from] IdTokenError),
}

/// What Microsoft said when it sent a browser back without a code. Of the description only numbers and ids are read: it is text
/// for people, comes through the browser and can be anything.
pub fn refused_in_browser(error: &str, description: &str) -> MicrosoftError {
    MicrosoftError::OAuth(Box::new(OAuthError {
        operation: Operation::Authorize,
        status: 400,
        error: headers::token(error).unwrap_or_default(),
        codes: aadsts_number(description).into_iter().collect(),
        suberror: String::new(),
        claims: None,
        trace_id: id_after(description, "Trace ID: "),
        correlation_id: id_after(description, "Correlation ID: "),
        retry_after: None,
    }))
}

fn aadsts_number(description: &str) -> Option<u64> {
    let rest = description.trim_start().strip_prefix("AADSTS")?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    rest.get(..digits)?.parse().ok()
}

fn id_after(description: &str, label: &str) -> Option<String> {
    let (_, rest) = description.split_once(label)?;
    let id = uuid::Uuid::try_parse(rest.get(..36)?).ok()?;
    Some(id.to_string())
}

impl From<BadInput> for RedeemError {
    fn from(problem: BadInput) -> Self {
        MicrosoftError::input(Operation::Redeem, problem).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::microsoft::Recovery;

    #[test]
    fn of_a_description_only_numbers_and_ids_are_read() {
        let id = "1a2b3c4d-0000-4000-8000-000000000001";
        let text = format!(
            "AADSTS65004: <script>alert(1)</script> ann@contoso.com declined.\r\nTrace ID: {id}\r\nCorrelation ID: {id}\r\nTimestamp: 2026-01-09 02:02:12Z"
        );
        let error = refused_in_browser("access_denied", &text);
        assert_eq!(error.correlation_id(), Some(id));
        let shown = format!("{error} {error:?}");
        assert!(
            !shown.contains("script") && !shown.contains("contoso"),
            "{shown}"
        );
        assert!(matches!(error.recovery(), Recovery::Reauthorize(c) if c.code == "AADSTS65004"));
    }

    #[test]
    fn nonsense_from_the_browser_is_nothing() {
        for (error, description) in [
            ("<b>", "AADSTS"),
            ("", "Correlation ID: short"),
            ("x\r\ny", "AADSTS99999999999999999999999: too large"),
            ("a b", "Trace ID: ÄÖÜÄÖÜÄÖÜÄÖÜÄÖÜÄÖÜÄÖÜÄÖÜÄÖÜÄÖÜÄÖÜÄÖÜ"),
        ] {
            let shown = refused_in_browser(error, description).to_string();
            assert_eq!(
                shown.trim_end(),
                "authorizing in the browser: status 400",
                "{shown}"
            );
        }
    }
}
