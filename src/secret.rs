//! Secrets in memory, which never print, and their sealing at rest.

mod ring;
mod seal;

pub use ring::{KeyFile, KeyRing};
pub use seal::{
    DataKey, DekId, KekId, KeyEncryptionKey, SealError, SealedAt, data_key_id, wrapped_by,
};

use std::fmt;
use std::path::Path;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret as _, SecretString};

/// A secret text. Prints as `[secret]`; its memory is wiped when it is dropped.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Takes over a secret text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(SecretString::from(text.into()))
    }

    /// The text itself, for the one place that has to send it.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// Why a secret could not be read from a file.
#[derive(Debug, thiserror::Error)]
pub enum ReadSecretError {
    /// The file could not be read.
    #[error("cannot read {0}")]
    Io(String, #[source] std::io::Error),
    /// Others than the owner may read it.
    #[error("{0} can be read by others; allow only its owner: chmod 600 {0}")]
    TooOpen(String),
    /// There is nothing in it.
    #[error("{0} is empty")]
    Empty(String),
}

/// Reads a secret from a file that only its owner can read, without the line end at its end.
pub fn read_secret_file(path: &Path) -> Result<Secret, ReadSecretError> {
    let name = || path.display().to_string();
    let io = |e| ReadSecretError::Io(name(), e);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(path).map_err(io)?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(ReadSecretError::TooOpen(name()));
        }
    }
    let text = zeroize::Zeroizing::new(std::fs::read_to_string(path).map_err(io)?);
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        return Err(ReadSecretError::Empty(name()));
    }
    Ok(Secret::new(text))
}

/// `N` bytes from the operating system's source of randomness.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

/// A random text for states, nonces and ids: 32 bytes in base64url.
pub fn random_token() -> String {
    URL_SAFE_NO_PAD.encode(random_bytes::<32>())
}

/// SHA-256, for what is looked up but must not be stored.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_print() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "[secret]");
    }

    #[cfg(unix)]
    #[test]
    fn a_secret_file_must_be_private_and_not_empty() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        std::fs::write(&path, "abc\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(
            read_secret_file(&path),
            Err(ReadSecretError::TooOpen(_))
        ));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(read_secret_file(&path).unwrap().expose(), "abc");
        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(
            read_secret_file(&path),
            Err(ReadSecretError::Empty(_))
        ));
    }
}
