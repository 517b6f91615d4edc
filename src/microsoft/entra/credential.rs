//! The credentials of our application: several at once, so that one can be replaced while the other still works.
//!
//! Which one is tried first is decided in [`order`]. One that Entra refuses gives way to the next within the same call.
//! `entra-oauth.md` §4.

use std::cmp::Reverse;
use std::fmt;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use aws_lc_rs::signature::{RSA_PSS_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::super::error::{BadInput, MicrosoftError, Recovery};
use super::{AppCredential, EntraSetupError, certificate};
use crate::model::Timestamp;
use crate::secret::{Secret, sha256};

/// The kinds of credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialKind {
    /// A certificate.
    Certificate,
    /// A client secret.
    Secret,
}

/// What may be known about a credential of ours. Prints as people call it: never the secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialFacts {
    /// Its kind.
    pub kind: CredentialKind,
    /// A certificate's thumbprint as the Entra admin center shows it (SHA-1 in hexadecimal); of secrets, which have no name that
    /// is not secret, the place in the configuration, from 1.
    pub id: String,
    /// When it ends, as far as that is known.
    pub ends: Option<Timestamp>,
    /// Entra refused it when it was last tried.
    pub refused: bool,
    /// It was the one that worked last.
    pub in_use: bool,
}

impl fmt::Display for CredentialFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            CredentialKind::Certificate => write!(f, "certificate {}", self.id),
            CredentialKind::Secret => write!(f, "client secret no. {}", self.id),
        }
    }
}

/// How near the end of a credential is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// Far away, or not known.
    Far,
    /// Within thirty days.
    Soon,
    /// Within fourteen days.
    VerySoon,
    /// Within three days.
    Now,
    /// It has come.
    Ended,
}

impl Ending {
    /// The word for programs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Far => "far",
            Self::Soon => "soon",
            Self::VerySoon => "very-soon",
            Self::Now => "now",
            Self::Ended => "ended",
        }
    }
}

const DAY: Duration = Duration::from_hours(24);

impl CredentialFacts {
    /// How near its end is.
    pub fn ending(&self, now: Timestamp) -> Ending {
        let Some(ends) = self.ends else {
            return Ending::Far;
        };
        match now.until(ends) {
            Duration::ZERO => Ending::Ended,
            left if left <= DAY * 3 => Ending::Now,
            left if left <= DAY * 14 => Ending::VerySoon,
            left if left <= DAY * 30 => Ending::Soon,
            _ => Ending::Far,
        }
    }
}

pub(super) enum Signer {
    Secret(Secret),
    Certificate {
        key: EncodingKey,
        /// For `x5t#S256`.
        thumbprint: String,
    },
}

/// One credential of our application, tried out: its key signs, and belongs to its certificate.
pub struct Credential {
    pub(super) signer: Signer,
    kind: CredentialKind,
    id: String,
    ends: Option<Timestamp>,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("kind", &self.kind)
            .field("ends", &self.ends)
            .finish_non_exhaustive()
    }
}

impl Credential {
    /// A secret does not tell when it ends: that is `secret_ends`. A certificate tells it itself.
    pub fn new(
        credential: AppCredential,
        secret_ends: Option<Timestamp>,
    ) -> Result<Self, EntraSetupError> {
        match credential {
            AppCredential::Secret(secret) => Ok(Self {
                signer: Signer::Secret(secret),
                kind: CredentialKind::Secret,
                id: String::new(),
                ends: secret_ends,
            }),
            AppCredential::Certificate {
                certificate_pem,
                private_key_pem,
            } => {
                let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
                    .map_err(|_| EntraSetupError::Certificate)?;
                let key = EncodingKey::from_rsa_pem(private_key_pem.expose().as_bytes())
                    .map_err(|_| EntraSetupError::PrivateKey)?;
                let read = certificate::read(&der).ok_or(EntraSetupError::Certificate)?;
                belong_together(&key, read.public_key)?;
                let ends = Some(read.ends);
                Ok(Self {
                    signer: Signer::Certificate {
                        key,
                        thumbprint: URL_SAFE_NO_PAD.encode(sha256(&der)),
                    },
                    kind: CredentialKind::Certificate,
                    id: in_hexadecimal(digest(&SHA1_FOR_LEGACY_USE_ONLY, &der).as_ref()),
                    ends,
                })
            }
        }
    }
}

/// Signs something, and verifies it with the public key.
fn belong_together(key: &EncodingKey, public_key: &[u8]) -> Result<(), EntraSetupError> {
    let header = Header::new(Algorithm::PS256);
    let signed = jsonwebtoken::encode(&header, &serde_json::json!({}), key)
        .map_err(|_| EntraSetupError::PrivateKey)?;
    let (message, signature) = signed.rsplit_once('.').ok_or(EntraSetupError::PrivateKey)?;
    let signature = URL_SAFE_NO_PAD
        .decode(signature)
        .map_err(|_| EntraSetupError::PrivateKey)?;
    UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, public_key)
        .verify(message.as_bytes(), &signature)
        .map_err(|_| EntraSetupError::NotAPair)
}

fn in_hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02X}");
        text
    })
}

/// All credentials of our application, and what was learned about them.
pub(super) struct Credentials {
    all: Vec<Credential>,
    learned: Mutex<Learned>,
}

#[derive(Debug)]
struct Learned {
    worked: Option<usize>,
    refused: Vec<bool>,
}

impl Credentials {
    pub fn new(mut all: Vec<Credential>) -> Self {
        let secrets = all.iter_mut().filter(|c| c.kind == CredentialKind::Secret);
        for (n, secret) in secrets.enumerate() {
            secret.id = (n + 1).to_string();
        }
        let learned = Learned {
            worked: None,
            refused: vec![false; all.len()],
        };
        Self {
            all,
            learned: Mutex::new(learned),
        }
    }

    pub fn get(&self, n: usize) -> &Credential {
        &self.all[n]
    }

    pub fn facts(&self) -> Vec<CredentialFacts> {
        let learned = self.learned();
        let facts = |(n, credential): (usize, &Credential)| CredentialFacts {
            kind: credential.kind,
            id: credential.id.clone(),
            ends: credential.ends,
            refused: learned.refused[n],
            in_use: learned.worked == Some(n),
        };
        self.all.iter().enumerate().map(facts).collect()
    }

    /// Which to try, one after the other.
    pub fn order(&self, now: Timestamp) -> Vec<usize> {
        order(&self.facts(), now)
    }

    pub fn worked(&self, n: usize) {
        let mut learned = self.learned();
        let news = learned.worked != Some(n);
        learned.worked = Some(n);
        learned.refused[n] = false;
        drop(learned);
        if news {
            tracing::info!(credential = %self.facts()[n], "Microsoft accepts this credential of ours");
        }
    }

    /// Takes note, and tells it once.
    pub fn refused(&self, n: usize, error: &MicrosoftError, is_last: bool) {
        let mut learned = self.learned();
        let news = !std::mem::replace(&mut learned.refused[n], true);
        drop(learned);
        if news {
            let credential = &self.facts()[n];
            if is_last {
                tracing::error!(%credential, %error, "Microsoft refuses this credential of ours, and there is no other left: no tenant can be read");
            } else {
                tracing::error!(%credential, %error, "Microsoft refuses this credential of ours; the next one is used");
            }
        }
    }

    fn learned(&self) -> MutexGuard<'_, Learned> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one that worked, while it has not ended; then those not refused before those refused, those not ended before those ended,
/// certificates before secrets, and the one that ends last before the others.
fn order(facts: &[CredentialFacts], now: Timestamp) -> Vec<usize> {
    let mut order: Vec<usize> = (0..facts.len()).collect();
    order.sort_by_key(|n| {
        let one = &facts[*n];
        let ended = one.ending(now) == Ending::Ended;
        (
            !one.in_use || one.refused || ended,
            one.refused,
            ended,
            one.kind == CredentialKind::Secret,
            Reverse(one.ends),
        )
    });
    order
}

/// Whether it was our credential that Entra refused, or that could not sign.
pub(super) fn is_of_the_credential(error: &MicrosoftError) -> bool {
    matches!(
        error,
        MicrosoftError::Input {
            problem: BadInput::Credential,
            ..
        }
    ) || matches!(error.recovery(), Recovery::OurFault { for_all: true, .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn in_days(days: i64) -> Timestamp {
        Timestamp::from_secs(NOW.as_secs() + days * 86_400)
    }

    fn facts(kind: CredentialKind, days: Option<i64>) -> CredentialFacts {
        CredentialFacts {
            kind,
            id: String::new(),
            ends: days.map(in_days),
            refused: false,
            in_use: false,
        }
    }

    use CredentialKind::{Certificate, Secret};

    #[test]
    fn certificates_go_first_then_what_ends_later_and_what_has_ended_goes_last() {
        let mut all = [
            facts(Secret, None),
            facts(Certificate, Some(-1)),
            facts(Secret, Some(90)),
            facts(Certificate, Some(10)),
            facts(Certificate, Some(20)),
        ];
        assert_eq!(order(&all, NOW), [4, 3, 2, 0, 1]);
        all[3].in_use = true;
        assert_eq!(order(&all, NOW), [3, 4, 2, 0, 1]);
        assert_eq!(
            order(&all, in_days(15)),
            [4, 2, 0, 3, 1],
            "what has ended goes last although it worked"
        );
        all[3].refused = true;
        assert_eq!(order(&all, NOW), [4, 2, 0, 1, 3]);
    }

    #[test]
    fn the_end_comes_nearer_in_steps() {
        for (days, ending) in [
            (Some(31), Ending::Far),
            (Some(30), Ending::Soon),
            (Some(14), Ending::VerySoon),
            (Some(3), Ending::Now),
            (Some(0), Ending::Ended),
            (Some(-400), Ending::Ended),
            (None, Ending::Far),
        ] {
            assert_eq!(facts(Secret, days).ending(NOW), ending, "{days:?}");
        }
    }

    #[test]
    fn a_key_of_another_certificate_is_told() {
        let key = || rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let (own, other) = (key(), key());
        let params = rcgen::CertificateParams::new(vec!["app".to_owned()]).unwrap();
        let pem = params.self_signed(&own).unwrap().pem();
        let build = |key: &rcgen::KeyPair| {
            let credential = AppCredential::Certificate {
                certificate_pem: pem.clone(),
                private_key_pem: crate::secret::Secret::new(key.serialize_pem()),
            };
            Credential::new(credential, None)
        };
        let good = build(&own).unwrap();
        assert!(good.ends.is_some());
        assert_eq!(good.id.len(), 40);
        assert_eq!(build(&other).unwrap_err(), EntraSetupError::NotAPair);
    }
}
