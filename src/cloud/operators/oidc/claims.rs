//! Who signed in, and what he may do: the claims of an id token, after its signature was verified. OpenID Connect Core 1.0 §3.1.3.7.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::OidcError;
use crate::cloud::store::Role;
use crate::cloud::web::session::same;
use crate::config::cloud::OidcConfig;
use crate::model::Timestamp;
use crate::secret::Secret;
use crate::signing_keys::{SKEW, for_display, in_time};

/// Longest subject. OpenID Connect Core 1.0 §2.
const LONGEST_SUBJECT: usize = 255;

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

/// What an id token claims.
#[derive(Deserialize)]
pub struct Claims {
    iss: String,
    aud: Audience,
    sub: String,
    exp: i64,
    iat: i64,
    #[serde(default)]
    nbf: Option<i64>,
    #[serde(default)]
    azp: Option<String>,
    #[serde(default)]
    nonce: Option<String>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// Somebody who has signed in at the issuer.
#[derive(Clone, PartialEq, Eq)]
pub struct Person {
    /// What the issuer calls him for ever.
    pub subject: String,
    /// How he is called here: `preferred_username`, else `email`, else the subject.
    pub name: String,
    /// What he may do; `None`: nothing.
    pub role: Option<Role>,
}

impl Claims {
    /// Who it is, if everything is as it must be for the sign-in with this nonce, begun at `begun`.
    pub fn check(
        mut self,
        config: &OidcConfig,
        nonce: &Secret,
        begun: Timestamp,
        now: Timestamp,
    ) -> Result<Person, OidcError> {
        let us = config.client_id.as_str();
        if self.iss != config.issuer {
            return Err(OidcError::Claim("it was issued by somebody else"));
        }
        let (for_us, several) = match &self.aud {
            Audience::One(one) => (one == us, false),
            Audience::Several(all) => (all.iter().any(|one| one == us), all.len() > 1),
        };
        let party = self.azp.as_deref();
        if !for_us || party.is_some_and(|party| party != us) || (several && party.is_none()) {
            return Err(OidcError::Claim("it is for another application"));
        }
        if !self
            .nonce
            .is_some_and(|theirs| same(&theirs, nonce.expose()))
        {
            return Err(OidcError::Claim("it belongs to another sign-in"));
        }
        let nbf = self.nbf.unwrap_or(self.iat);
        let earliest = begun.minus(SKEW).as_secs();
        if !in_time(now, self.exp, nbf, self.iat) || self.iat < earliest {
            return Err(OidcError::Claim("it is out of its time"));
        }
        let subject = for_display(&self.sub);
        if subject.is_empty() || self.sub.len() > LONGEST_SUBJECT {
            return Err(OidcError::Claim("it does not say who it is about"));
        }
        // Small services name single people instead of groups.
        self.others.insert("sub".into(), Value::from(self.sub));
        let text = |name: &str| self.others.get(name).and_then(Value::as_str);
        let name = ["preferred_username", "email"]
            .into_iter()
            .filter_map(|claim| text(claim).map(for_display))
            .find(|name| !name.is_empty() && !super::RESERVED.contains(&name.as_str()));
        Ok(Person {
            name: name.unwrap_or_else(|| subject.clone()),
            subject,
            role: role(&self.others, config),
        })
    }
}

/// What a person may do. Who is both is an operator.
fn role(claims: &Map<String, Value>, config: &OidcConfig) -> Option<Role> {
    let held = claim(claims, &config.role_claim)?;
    let holds = |any_of: &[String]| {
        let is = |value: &Value| {
            value
                .as_str()
                .is_some_and(|v| any_of.iter().any(|o| o == v))
        };
        is(held) || held.as_array().is_some_and(|all| all.iter().any(is))
    };
    if holds(&config.operators) {
        Some(Role::Operator)
    } else if holds(&config.viewers) {
        Some(Role::Viewer)
    } else {
        None
    }
}

/// A claim by its name; with dots, one inside of others. A name that has dots itself goes first.
fn claim<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    if let Some(found) = claims.get(name) {
        return Some(found);
    }
    let (first, rest) = name.split_once('.')?;
    rest.split('.')
        .try_fold(claims.get(first)?, |inside, part| inside.get(part))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn config() -> OidcConfig {
        OidcConfig {
            issuer: "https://login.example".into(),
            issuer_url: url::Url::parse("https://login.example").unwrap(),
            client_id: "us".into(),
            client_secret_file: None,
            extra_roots: None,
            scopes: Vec::new(),
            role_claim: "groups".into(),
            operators: vec!["ops".into()],
            viewers: vec!["helpdesk".into()],
        }
    }

    fn claims() -> Value {
        json!({
            "iss": "https://login.example", "aud": "us", "sub": "s-1", "nonce": "n",
            "iat": NOW.as_secs(), "exp": NOW.as_secs() + 60, "groups": ["staff", "ops"],
            "preferred_username": "ann", "email": "ann@example.com",
        })
    }

    fn check(claims: Value, config: &OidcConfig) -> Result<Person, OidcError> {
        let claims: Claims = serde_json::from_value(claims).unwrap();
        claims.check(config, &Secret::new("n"), NOW, NOW)
    }

    #[test]
    fn whoever_has_a_group_that_is_named_gets_in() {
        let person = check(claims(), &config()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(
            (person.name.as_str(), person.subject.as_str()),
            ("ann", "s-1")
        );
        for (claim, path, expected) in [
            (json!({"groups": "helpdesk"}), "groups", Some(Role::Viewer)),
            (
                json!({"groups": ["helpdesk", "ops"]}),
                "groups",
                Some(Role::Operator),
            ),
            (json!({"groups": ["OPS"]}), "groups", None),
            (json!({"groups": "ops helpdesk"}), "groups", None),
            (json!({"groups": null}), "groups", None),
            (json!({"groups": {"ops": true}}), "groups", None),
            (
                json!({"realm": {"roles": ["ops"]}}),
                "realm.roles",
                Some(Role::Operator),
            ),
            (
                json!({"https://x.example/roles": ["ops"]}),
                "https://x.example/roles",
                Some(Role::Operator),
            ),
            (json!({"roles": ["ops"]}), "realm.roles", None),
            (json!({"sub": "ops"}), "sub", Some(Role::Operator)),
            (json!({}), "groups", None),
        ] {
            let config = OidcConfig {
                role_claim: path.into(),
                ..config()
            };
            let mut all = claims();
            all.as_object_mut().unwrap().remove("groups");
            all.as_object_mut()
                .unwrap()
                .extend(claim.as_object().unwrap().clone());
            let person = check(all, &config).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(person.role, expected, "{claim}");
        }
    }

    #[test]
    fn names_are_shown_without_what_cannot_be_seen() {
        for (claim, name) in [
            (json!({"preferred_username": "an\u{202e}n\n\u{0}a"}), "anna"),
            (json!({"preferred_username": " "}), "ann@example.com"),
            (json!({"preferred_username": 7, "email": null}), "s-1"),
            (
                json!({"preferred_username": "by password"}),
                "ann@example.com",
            ),
        ] {
            let mut all = claims();
            all.as_object_mut()
                .unwrap()
                .extend(claim.as_object().unwrap().clone());
            let person = check(all, &config()).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(person.name, name);
        }
    }

    #[test]
    fn a_token_for_somebody_else_or_another_time_is_refused() {
        let now = NOW.as_secs();
        for (claim, why) in [
            (
                json!({"iss": "https://login.example/"}),
                "issued by somebody else",
            ),
            (json!({"aud": "them"}), "another application"),
            (json!({"aud": ["them"]}), "another application"),
            (json!({"aud": ["us", "them"]}), "another application"),
            (json!({"azp": "them"}), "another application"),
            (json!({"nonce": "m"}), "another sign-in"),
            (json!({"nonce": null}), "another sign-in"),
            (json!({"exp": now - 301}), "out of its time"),
            (json!({"iat": now + 301}), "out of its time"),
            (json!({"iat": now - 301}), "out of its time"),
            (json!({"nbf": now + 301}), "out of its time"),
            (json!({"sub": ""}), "who it is about"),
            (json!({"sub": "x".repeat(256)}), "who it is about"),
        ] {
            let mut all = claims();
            all.as_object_mut()
                .unwrap()
                .extend(claim.as_object().unwrap().clone());
            let refused = check(all, &config()).err().map(|e| e.to_string());
            assert!(refused.is_some_and(|e| e.contains(why)), "{claim}");
        }
        let mut ours = claims();
        ours["aud"] = json!(["us", "them"]);
        ours["azp"] = json!("us");
        assert!(check(ours, &config()).is_ok());
    }
}
