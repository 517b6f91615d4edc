use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, LazyLock};

use aws_lc_rs::{hmac, rand};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! uuid_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::try_parse(text).map(Self)
            }
        }
    };
}

uuid_newtype! {
    /// A Microsoft 365 organisation: the `tid` of Entra, immutable.
    TenantId
}
uuid_newtype! {
    /// A person: the object id of Entra, immutable within a tenant. Presence is kept under it, never under a UPN.
    UserId
}
uuid_newtype! {
    /// A phone system that receives presence.
    SuiteId
}
uuid_newtype! {
    /// One key of a suite: the `kid` of its JWTs.
    KeyId
}

impl SuiteId {
    /// A new random id.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

impl KeyId {
    /// A new random id.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

/// Longest UPN accepted, in bytes of UTF-8. `security-and-faults.md` §5.
const MAX_UPN_BYTES: usize = 320;

/// A user principal name, in lower case: Entra compares UPNs without regard to case.
///
/// Prints as a keyed hash, so that it cannot reach a log by accident; [`Upn::as_str`] gives the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Upn(Arc<str>);

/// Why a text is not a UPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUpn {
    /// Nothing but blanks.
    #[error("the name is empty")]
    Empty,
    /// More than 320 bytes.
    #[error("the name is longer than 320 bytes")]
    TooLong,
    /// Not of the form `local@domain`.
    #[error("a UPN looks like name@domain, with exactly one @")]
    NotAnAddress,
    /// Blanks or control characters inside.
    #[error("the name contains blanks or control characters")]
    ForbiddenCharacter,
}

impl Upn {
    /// Checks and normalises what a suite or Microsoft wrote.
    pub fn parse(text: &str) -> Result<Self, InvalidUpn> {
        let text = text.trim();
        if text.is_empty() {
            return Err(InvalidUpn::Empty);
        }
        if text.len() > MAX_UPN_BYTES {
            return Err(InvalidUpn::TooLong);
        }
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(InvalidUpn::ForbiddenCharacter);
        }
        match text.split_once('@') {
            Some((local, domain))
                if !local.is_empty() && !domain.is_empty() && !domain.contains('@') =>
            {
                Ok(Self(text.to_lowercase().into()))
            }
            _ => Err(InvalidUpn::NotAnAddress),
        }
    }

    /// The text in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same, to be kept.
    pub fn to_shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }

    /// Whether this is the name of a guest of the tenant (`name_home.com#EXT#@tenant`).
    pub fn is_guest(&self) -> bool {
        self.0.contains("#ext#@")
    }
}

impl fmt::Display for Upn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A key per process: a log line can be tied to another of the same run, never to a person.
        static KEY: LazyLock<hmac::Key> = LazyLock::new(|| {
            hmac::Key::generate(hmac::HMAC_SHA256, &rand::SystemRandom::new())
                .expect("the operating system gives random bytes")
        });
        f.write_str("h:")?;
        for byte in &hmac::sign(&KEY, self.0.as_bytes()).as_ref()[..8] {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Upn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upns_compare_without_case() {
        assert_eq!(
            Upn::parse("Ann.O'Hara@Contoso.com"),
            Upn::parse("ann.o'hara@contoso.COM ")
        );
    }

    #[test]
    fn what_is_no_upn_is_refused_with_a_reason() {
        for (text, why) in [
            ("  ", InvalidUpn::Empty),
            ("ann", InvalidUpn::NotAnAddress),
            ("@contoso.com", InvalidUpn::NotAnAddress),
            ("ann@", InvalidUpn::NotAnAddress),
            ("ann@x@y", InvalidUpn::NotAnAddress),
            ("ann b@contoso.com", InvalidUpn::ForbiddenCharacter),
            ("ann\u{0}@contoso.com", InvalidUpn::ForbiddenCharacter),
        ] {
            assert_eq!(Upn::parse(text), Err(why), "{text:?}");
        }
        assert_eq!(
            Upn::parse(&format!("{}@x.com", "a".repeat(320))),
            Err(InvalidUpn::TooLong)
        );
    }

    #[test]
    fn a_upn_never_prints_itself() {
        let upn = Upn::parse("ann@contoso.com").unwrap();
        assert!(!format!("{upn} {upn:?}").contains("ann"));
        assert_eq!(
            upn.to_string(),
            Upn::parse("ANN@contoso.com").unwrap().to_string()
        );
    }

    #[test]
    fn guests_are_recognised() {
        assert!(
            Upn::parse("ann_home.com#EXT#@contoso.onmicrosoft.com")
                .unwrap()
                .is_guest()
        );
        assert!(!Upn::parse("ann@contoso.com").unwrap().is_guest());
    }
}
