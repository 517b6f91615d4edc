//! Who this suite is: its key, and the JWTs made with it.
//!
//! Invariants: the private key is on disk before the cloud hears of the public one, so that a lost answer can be asked for again;
//! files are readable by their owner only and replaced as a whole.

use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde::{Deserialize, Serialize};
use tonic::metadata::{Ascii, MetadataValue};
use url::Url;

use super::connection::{CloudAddress, Explained, explain};
use crate::clock::Clock;
use crate::model::Timestamp;
use crate::secret::{Secret, random_token};
use crate::wire::{self, v1};

/// Life of a JWT; the cloud allows 15 minutes.
pub const CREDENTIAL_LIFE: Duration = Duration::from_mins(10);

/// Longest wait for the answer to a renewal.
const RENEWAL_ANSWER: Duration = Duration::from_secs(30);

const IDENTITY_FILE: &str = "identity.json";
/// The key of an enrolment that has not succeeded yet.
const NEW_KEY_FILE: &str = "new-key.json";
/// The key of a renewal that has not been answered yet. Never used to enrol: the cloud may know it already.
const RENEWAL_KEY_FILE: &str = "renewal-key.json";

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Never enrolled.
    #[error(
        "this suite is not enrolled yet: there is no {0}. Ask for an enrolment code and run: presence-agent enroll"
    )]
    NotEnrolled(PathBuf),
    /// Enrolled already.
    #[error(
        "this suite is enrolled already ({0}). To enrol it anew, use --replace, or another --state folder"
    )]
    AlreadyEnrolled(PathBuf),
    /// A file cannot be read or written.
    #[error("{0} cannot be used")]
    File(PathBuf, #[source] std::io::Error),
    /// A file does not hold what it should.
    #[error("{0} is damaged; enrol the suite again")]
    Damaged(PathBuf),
    /// The cloud could not be reached or refused.
    #[error("{0}")]
    Cloud(Explained),
    /// The server's answer makes no sense.
    #[error("the server's answer is not that of presence-cloud; check the address")]
    Answer,
}

#[derive(Serialize, Deserialize)]
struct KeyFile {
    /// PKCS#8 v1, base64.
    private_key: String,
}

#[derive(Serialize, Deserialize)]
struct IdentityFile {
    cloud_url: Url,
    ca_file: Option<PathBuf>,
    suite_id: String,
    key_id: String,
    tenant_id: String,
    tenant_name: String,
    audience: String,
    key_made_at: i64,
    #[serde(flatten)]
    key: KeyFile,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    tid: &'a str,
    jti: String,
    iat: i64,
    nbf: i64,
    exp: i64,
}

/// A suite that is enrolled.
#[derive(Clone)]
pub struct Identity {
    /// Where its cloud is.
    pub cloud: CloudAddress,
    /// Its id.
    pub suite_id: String,
    /// Name of its tenant, for people.
    pub tenant_name: String,
    /// When its key was made.
    pub key_made_at: Timestamp,
    key_id: String,
    tenant_id: String,
    audience: String,
    signing: EncodingKey,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("suite_id", &self.suite_id)
            .finish_non_exhaustive()
    }
}

struct Key {
    pair: Ed25519KeyPair,
    file: KeyFile,
}

impl Key {
    fn new() -> Self {
        let pair = Ed25519KeyPair::generate().expect("the operating system gives random bytes");
        let private = pair.to_pkcs8v1().expect("a key just made can be written");
        Self {
            file: KeyFile {
                private_key: STANDARD.encode(private.as_ref()),
            },
            pair,
        }
    }

    fn read(path: &Path) -> Result<Self, IdentityError> {
        let damaged = || IdentityError::Damaged(path.into());
        let file: KeyFile = serde_json::from_slice(&read(path)?).map_err(|_| damaged())?;
        let private = STANDARD.decode(&file.private_key).map_err(|_| damaged())?;
        let pair = Ed25519KeyPair::from_pkcs8(&private).map_err(|_| damaged())?;
        Ok(Self { pair, file })
    }

    fn public(&self) -> Vec<u8> {
        self.pair.public_key().as_ref().to_vec()
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    std::fs::read(path).map_err(|e| IdentityError::File(path.into(), e))
}

/// Writes a file that only its owner can read, as a whole or not at all.
fn write_private(path: &Path, content: &impl Serialize) -> Result<(), IdentityError> {
    use std::io::Write as _;
    let failed = |e| IdentityError::File(path.into(), e);
    let text = serde_json::to_vec_pretty(content).map_err(|e| failed(e.into()))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(failed)?;
    let temporary = path.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&temporary).map_err(failed)?;
    file.write_all(&text)
        .and_then(|()| file.sync_all())
        .map_err(failed)?;
    std::fs::rename(&temporary, path).map_err(failed)?;
    // The new name itself must survive a crash.
    std::fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(failed)
}

/// What an enrolment needs.
#[derive(Debug)]
pub struct Enrolment {
    /// Where the cloud is.
    pub cloud: CloudAddress,
    /// The one-time code.
    pub code: Secret,
    /// Name for people.
    pub suite_name: String,
    /// Folder for the key and the identity.
    pub state: PathBuf,
    /// Whether an identity that is there already may be replaced.
    pub replace: bool,
}

/// Product and version, as told to the cloud.
pub const AGENT_VERSION: &str = concat!("presence-agent/", env!("CARGO_PKG_VERSION"));

/// Whether a suite may be enrolled here: not where one is already, unless it is to be replaced.
pub fn check_not_enrolled(state: &Path, replace: bool) -> Result<(), IdentityError> {
    let path = state.join(IDENTITY_FILE);
    if path.exists() && !replace {
        return Err(IdentityError::AlreadyEnrolled(path));
    }
    Ok(())
}

impl Identity {
    /// Reads the identity of an enrolled suite.
    pub fn load(state: &Path) -> Result<Self, IdentityError> {
        let path = state.join(IDENTITY_FILE);
        if !path.exists() {
            return Err(IdentityError::NotEnrolled(path));
        }
        let file: IdentityFile = serde_json::from_slice(&read(&path)?)
            .map_err(|_| IdentityError::Damaged(path.clone()))?;
        let private = STANDARD
            .decode(&file.key.private_key)
            .map_err(|_| IdentityError::Damaged(path.clone()))?;
        Ed25519KeyPair::from_pkcs8(&private).map_err(|_| IdentityError::Damaged(path))?;
        Ok(Self {
            cloud: CloudAddress {
                url: file.cloud_url,
                ca_file: file.ca_file,
            },
            suite_id: file.suite_id,
            tenant_name: file.tenant_name,
            key_made_at: Timestamp::from_millis(file.key_made_at),
            key_id: file.key_id,
            tenant_id: file.tenant_id,
            audience: file.audience,
            signing: EncodingKey::from_ed_der(&private),
        })
    }

    /// Trades a code for an identity. Can be repeated after a failure: the key stays the same until it has succeeded.
    pub async fn enroll(enrolment: Enrolment, clock: &Clock) -> Result<Self, IdentityError> {
        let Enrolment {
            cloud,
            code,
            suite_name,
            state,
            replace,
        } = enrolment;
        check_not_enrolled(&state, replace)?;
        let path = state.join(IDENTITY_FILE);
        let new_key = state.join(NEW_KEY_FILE);
        let key = kept_key(&new_key)?;
        let mut client = v1::enrollment_service_client::EnrollmentServiceClient::new(
            cloud.channel().map_err(IdentityError::Cloud)?,
        );
        let public_key = key.public();
        let answer = client
            .enroll(v1::EnrollRequest {
                proof: key.sign(&wire::enroll_proof_message(code.expose(), &public_key)),
                code: code.expose().to_owned(),
                public_key,
                suite_name,
                agent_version: AGENT_VERSION.into(),
            })
            .await
            .map_err(|status| IdentityError::Cloud(explain_enrolment(&status, clock.now())))?
            .into_inner();
        if answer.suite_id.is_empty() || answer.key_id.is_empty() || answer.audience.is_empty() {
            return Err(IdentityError::Answer);
        }
        let file = IdentityFile {
            cloud_url: cloud.url,
            ca_file: cloud.ca_file,
            suite_id: answer.suite_id,
            key_id: answer.key_id,
            tenant_id: answer.tenant_id,
            tenant_name: answer.tenant_name,
            audience: answer.audience,
            key_made_at: clock.now().as_millis(),
            key: key.file,
        };
        write_private(&path, &file)?;
        let _ = std::fs::remove_file(&new_key);
        // It belongs to the suite of before.
        let _ = std::fs::remove_file(state.join(RENEWAL_KEY_FILE));
        Self::load(&state)
    }

    /// When the key is to be replaced, if that is to happen at this age.
    pub fn renewal_due(&self, after: Duration) -> Timestamp {
        self.key_made_at.plus(after)
    }

    /// Whether this is the same key.
    pub fn has_key_of(&self, other: &Self) -> bool {
        (&self.suite_id, &self.key_id) == (&other.suite_id, &other.key_id)
    }

    /// Replaces the key, unless somebody else has done so meanwhile. Can be repeated after a failure: the new key stays the same
    /// until the cloud has answered, and the old one stays good for a day after the cloud has heard.
    pub async fn renew_key(&self, state: &Path, clock: &Clock) -> Result<Self, IdentityError> {
        let (path, new_key) = (state.join(IDENTITY_FILE), state.join(RENEWAL_KEY_FILE));
        let stored = Self::load(state)?;
        if !stored.has_key_of(self) {
            return Ok(stored);
        }
        let key = kept_key(&new_key)?;
        let mut client = v1::enrollment_service_client::EnrollmentServiceClient::new(
            self.cloud.channel().map_err(IdentityError::Cloud)?,
        );
        let public_key = key.public();
        let mut request = tonic::Request::new(v1::RenewKeyRequest {
            proof: key.sign(&wire::renew_proof_message(&self.suite_id, &public_key)),
            public_key,
        });
        request
            .metadata_mut()
            .insert("authorization", self.bearer(clock.now()));
        let answer = tokio::time::timeout(RENEWAL_ANSWER, client.renew_key(request))
            .await
            .unwrap_or_else(|_| {
                Err(tonic::Status::deadline_exceeded(
                    "the cloud does not answer",
                ))
            });
        let answer = answer.map_err(|status| {
            if status.code() == tonic::Code::AlreadyExists {
                // Another suite's, or out of its time: the next try makes a new one.
                let _ = std::fs::remove_file(&new_key);
            }
            IdentityError::Cloud(explain(&status, clock.now()))
        })?;
        let answer = answer.into_inner();
        if answer.key_id.is_empty() {
            return Err(IdentityError::Answer);
        }
        let mut file: IdentityFile = serde_json::from_slice(&read(&path)?)
            .map_err(|_| IdentityError::Damaged(path.clone()))?;
        // Enrolled anew meanwhile: what was renewed is another suite's key.
        if file.suite_id == self.suite_id {
            file.key_id = answer.key_id;
            file.key_made_at = clock.now().as_millis();
            file.key = key.file;
            write_private(&path, &file)?;
        }
        let _ = std::fs::remove_file(&new_key);
        Self::load(state)
    }

    /// A fresh JWT.
    pub fn credential(&self, now: Timestamp) -> Secret {
        let mut header = Header::new(Algorithm::EdDSA);
        header.typ = Some("suite+jwt".into());
        header.kid = Some(self.key_id.clone());
        let claims = Claims {
            iss: &self.suite_id,
            sub: &self.suite_id,
            aud: &self.audience,
            tid: &self.tenant_id,
            jti: random_token(),
            iat: now.as_secs(),
            nbf: now.as_secs(),
            exp: now.plus(CREDENTIAL_LIFE).as_secs(),
        };
        Secret::new(
            encode(&header, &claims, &self.signing)
                .expect("an Ed25519 key that was checked when it was read signs"),
        )
    }

    /// The value of the `authorization` metadata.
    pub fn bearer(&self, now: Timestamp) -> MetadataValue<Ascii> {
        let mut value =
            MetadataValue::try_from(format!("Bearer {}", self.credential(now).expose()))
                .expect("a JWT is plain ASCII");
        value.set_sensitive(true);
        value
    }
}

/// The key of an earlier try, or a new one, on disk.
fn kept_key(path: &Path) -> Result<Key, IdentityError> {
    if path.exists()
        && let Ok(key) = Key::read(path)
    {
        return Ok(key);
    }
    let key = Key::new();
    write_private(path, &key.file)?;
    Ok(key)
}

fn explain_enrolment(status: &tonic::Status, now: Timestamp) -> Explained {
    match status.code() {
        tonic::Code::PermissionDenied => Explained {
            what: "The enrolment code is not valid: it was mistyped, used, or has expired".into(),
            remedy: "Ask for a new one.".into(),
            retry: false,
        },
        _ => explain(status, now),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_key_is_private_and_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub").join(NEW_KEY_FILE);
        let first = kept_key(&path).unwrap().public();
        assert_eq!(kept_key(&path).unwrap().public(), first);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(
                std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
                0o600
            );
        }
    }

    #[test]
    fn who_is_not_enrolled_is_told_how() {
        let dir = tempfile::tempdir().unwrap();
        let error = Identity::load(dir.path()).unwrap_err();
        assert!(error.to_string().contains("presence-agent enroll"));
        std::fs::write(dir.path().join(IDENTITY_FILE), "{}").unwrap();
        assert!(matches!(
            Identity::load(dir.path()),
            Err(IdentityError::Damaged(_))
        ));
    }
}
