//! Tokens of the admin API: made, listed, revoked.

use std::time::Duration;

use super::{OperationError, Operations};
use crate::cloud::operations::answers::TokenMade;
use crate::cloud::store::{Actor, ApiToken, Role};
use crate::secret::{random_token, sha256};

/// What every token of the admin API begins with, so that one that got lost is recognised.
pub const PREFIX: &str = "pbt_";

/// 32 bytes in base64url.
const RANDOM: usize = 43;

/// How long a token is good at most.
pub const LONGEST: Duration = Duration::from_hours(24 * 365);

/// How long a token is good, unless said otherwise.
pub const USUAL: Duration = Duration::from_hours(24 * 90);

/// Whether this can be the name of a token: it goes into paths, log lines and command lines.
fn is_name(name: &str) -> bool {
    let inside = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    name.len() <= 64
        && name.bytes().all(inside)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// Whether this can be a token: what cannot is looked for nowhere.
pub fn is_token(text: &str) -> bool {
    let inside = |b: u8| b.is_ascii_alphanumeric() || b"_-".contains(&b);
    let random = text.strip_prefix(PREFIX);
    random.is_some_and(|random| random.len() == RANDOM && random.bytes().all(inside))
}

impl Operations {
    /// Makes a token of the admin API: 256 random bits, of which the hash is stored. It is good for at most [`LONGEST`].
    pub async fn make_api_token(
        &self,
        by: &Actor,
        name: &str,
        role: Role,
        valid_for: Duration,
    ) -> Result<TokenMade, OperationError> {
        if !is_name(name) {
            return Err(OperationError::BadName);
        }
        let now = self.now();
        let token = format!("{PREFIX}{}", random_token());
        let made = ApiToken {
            name: name.into(),
            role,
            created_at: now,
            expires_at: now.plus(valid_for.min(LONGEST)),
        };
        let hash = sha256(token.as_bytes());
        if !self.store.put_api_token(hash, &made, by, now).await? {
            return Err(OperationError::NameTaken(made.name));
        }
        tracing::info!(
            token.name = name,
            role = role.as_str(),
            "a token of the admin API was made"
        );
        Ok(TokenMade {
            token,
            name: made.name,
            role,
            expires_at: made.expires_at,
        })
    }

    /// All tokens of the admin API.
    pub async fn api_tokens(&self) -> Result<Vec<ApiToken>, OperationError> {
        Ok(self.store.api_tokens().await?)
    }

    /// Revokes a token of the admin API: what is asked with it from now on is refused.
    pub async fn revoke_api_token(&self, by: &Actor, name: &str) -> Result<(), OperationError> {
        if self.store.revoke_api_token(name, by, self.now()).await? {
            tracing::info!(token.name = name, "a token of the admin API was revoked");
            return Ok(());
        }
        Err(OperationError::NoToken(name.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::{PREFIX, is_name, is_token};
    use crate::secret::random_token;

    #[test]
    fn only_what_has_the_form_of_a_token_is_looked_for() {
        assert!(is_token(&format!("{PREFIX}{}", random_token())));
        let (short, long) = ("a".repeat(42), "a".repeat(44));
        for nonsense in [
            "",
            "pbt_",
            "pbt_guessed",
            &format!("pbt_{short}"),
            &format!("pbt_{long}"),
        ] {
            assert!(!is_token(nonsense), "{nonsense}");
        }
        assert!(!is_token(&random_token()) && !is_token(&format!("pbt_{short}/")));
    }

    #[test]
    fn a_name_is_good_in_a_path_and_on_a_command_line() {
        for good in ["grafana", "a", "2026.reports_of-ann", &"a".repeat(64)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "-a", ".", "a b", "a/b", "é", "a\n", &"a".repeat(65)] {
            assert!(!is_name(bad), "{bad:?}");
        }
    }
}
