//! Envelope encryption: key-encryption key → data key per tenant → sealed value. `security-and-faults.md` §3.
//!
//! Sealed bytes are `version(1) alg(1) kek_id(4) dek_id(4) nonce(12) ciphertext tag(16)`. What a value belongs to ([`SealedAt`])
//! is bound as associated data: moved to another tenant, column or generation it does not open. `kek_id` is zero in values, so
//! that a new key-encryption key re-wraps the data keys only.

use std::fmt;
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::{ReadSecretError, random_bytes, sha256};
use crate::model::TenantId;

const VERSION: u8 = 1;
const ALG_AES_256_GCM: u8 = 1;
const NO_KEK: [u8; 4] = [0; 4];

/// Why sealing or opening failed. Opening has one failure, so that nothing can be learned from it.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// Not sealed by this key for this place, or damaged.
    #[error("a sealed value does not open: wrong key, or it was moved or damaged")]
    DoesNotOpen,
    /// The key file could not be read.
    #[error("the key-encryption key cannot be read")]
    KeyFile(#[source] ReadSecretError),
    /// The key file does not hold 32 bytes in base64.
    #[error(
        "the key file must hold 32 bytes in base64 on each line; if there is a database already, put your copy of the file back, for a \
         new key opens nothing of it; else remove the file and use: presence-cloud keys create"
    )]
    KeyForm,
    /// The key file could not be written.
    #[error("the key-encryption key cannot be written to {0}")]
    KeyWrite(String, #[source] std::io::Error),
    /// Another is changing the key file.
    #[error("another command is changing {0} just now; try again when it is done")]
    KeyBusy(String),
    /// Wrapped by a key that is not in the key file.
    #[error("a data key was wrapped by the key {0}, which is not in the key file")]
    UnknownKey(KekId),
}

/// The id of a key-encryption key, derived from the key. Prints in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KekId(pub [u8; 4]);

/// The id of a data key. Prints in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DekId(pub [u8; 4]);

macro_rules! prints_in_hexadecimal {
    ($($name:ty),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:08x}", u32::from_be_bytes(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }
    )*};
}

prints_in_hexadecimal!(KekId, DekId);

/// Where a sealed value stands. Part of what is authenticated.
#[derive(Debug, Clone, Copy)]
pub struct SealedAt<'a> {
    /// Tenant it belongs to.
    pub tenant: TenantId,
    /// Table.
    pub table: &'a str,
    /// Column.
    pub column: &'a str,
    /// Row, within the tenant.
    pub row: &'a str,
    /// Version of the value.
    pub generation: i64,
}

impl SealedAt<'_> {
    fn associated_data(&self) -> Vec<u8> {
        length_prefixed(&[
            b"tok/v1",
            self.tenant.0.as_bytes(),
            self.table.as_bytes(),
            self.column.as_bytes(),
            self.row.as_bytes(),
            &self.generation.to_be_bytes(),
        ])
    }
}

fn length_prefixed(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts {
        out.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(part);
    }
    out
}

fn key(bytes: &[u8; 32]) -> RandomizedNonceKey {
    RandomizedNonceKey::new(&AES_256_GCM, bytes).expect("AES-256-GCM takes 32 bytes")
}

fn head(kek_id: [u8; 4], dek_id: [u8; 4]) -> Vec<u8> {
    let mut out = vec![VERSION, ALG_AES_256_GCM];
    out.extend_from_slice(&kek_id);
    out.extend_from_slice(&dek_id);
    out
}

fn seal(key: &RandomizedNonceKey, head: Vec<u8>, aad: &[u8], plain: &[u8]) -> Vec<u8> {
    let mut buffer = plain.to_vec();
    let nonce = key
        .seal_in_place_append_tag(Aad::from(aad), &mut buffer)
        .expect("a token is far below the limit of AES-GCM");
    let mut out = head;
    out.extend_from_slice(nonce.as_ref());
    out.extend_from_slice(&buffer);
    out
}

fn open(
    key: &RandomizedNonceKey,
    head: &[u8],
    aad: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let rest = sealed.strip_prefix(head).ok_or(SealError::DoesNotOpen)?;
    let (nonce, body) = rest
        .split_first_chunk::<NONCE_LEN>()
        .ok_or(SealError::DoesNotOpen)?;
    let mut body = Zeroizing::new(body.to_vec());
    let length = key
        .open_in_place(
            Nonce::assume_unique_for_key(*nonce),
            Aad::from(aad),
            &mut body,
        )
        .map_err(|_| SealError::DoesNotOpen)?
        .len();
    body.truncate(length);
    Ok(body)
}

/// Reads 32 bytes in base64.
pub(super) fn parse_key(text: &str) -> Result<Zeroizing<[u8; 32]>, SealError> {
    let bytes = STANDARD
        .decode(text)
        .map(Zeroizing::new)
        .map_err(|_| SealError::KeyForm)?;
    let bytes: &[u8; 32] = bytes
        .as_slice()
        .try_into()
        .map_err(|_| SealError::KeyForm)?;
    Ok(Zeroizing::new(*bytes))
}

/// Which key-encryption key has wrapped a data key, by its header; `None` when it is no wrapped key.
pub fn wrapped_by(wrapped: &[u8]) -> Option<KekId> {
    Some(KekId(wrapped.get(2..6)?.try_into().ok()?))
}

/// Which data key this is in its wrapped form; `None` when it is no wrapped key.
pub fn data_key_id(wrapped: &[u8]) -> Option<DekId> {
    Some(DekId(wrapped.get(6..10)?.try_into().ok()?))
}

/// The key that wraps data keys. Lives in an owner-only file, never in the database or the environment.
pub struct KeyEncryptionKey {
    id: KekId,
    key: RandomizedNonceKey,
}

impl fmt::Debug for KeyEncryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyEncryptionKey([secret])")
    }
}

impl KeyEncryptionKey {
    /// From 32 bytes. Its id is derived from the key, so that the two cannot be mixed up.
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        let digest = sha256(&length_prefixed(&[b"kek-id/v1", bytes]));
        let mut id = [0; 4];
        id.copy_from_slice(&digest[..4]);
        Self {
            id: KekId(id),
            key: key(bytes),
        }
    }

    /// Makes a new key in a new owner-only file; an existing file is left alone and is an error.
    pub fn create(path: &Path) -> Result<Self, SealError> {
        use std::io::Write as _;
        let bytes = Zeroizing::new(random_bytes::<32>());
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let text = Zeroizing::new(STANDARD.encode(*bytes) + "\n");
        options
            .open(path)
            .and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                file.sync_all()
            })
            .map_err(|e| SealError::KeyWrite(path.display().to_string(), e))?;
        Ok(Self::from_bytes(&bytes))
    }

    /// The key's id, as stored beside what it wraps.
    pub fn id(&self) -> KekId {
        self.id
    }

    /// Makes a data key for a tenant: the key, and its wrapped form to store.
    pub fn new_data_key(&self, tenant: TenantId) -> (DataKey, Vec<u8>) {
        let data_key = DataKey::new(random_bytes::<4>(), Zeroizing::new(random_bytes::<32>()));
        let wrapped = self.wrap_data_key(tenant, &data_key);
        (data_key, wrapped)
    }

    /// Wraps a tenant's data key, to store it.
    pub fn wrap_data_key(&self, tenant: TenantId, data_key: &DataKey) -> Vec<u8> {
        let aad = self.wrap_data(tenant, data_key.id);
        let head = head(self.id.0, data_key.id);
        seal(&self.key, head, &aad, data_key.bytes.as_slice())
    }

    /// Opens a tenant's stored data key.
    pub fn open_data_key(&self, tenant: TenantId, wrapped: &[u8]) -> Result<DataKey, SealError> {
        let DekId(id) = data_key_id(wrapped).ok_or(SealError::DoesNotOpen)?;
        let bytes = open(
            &self.key,
            &head(self.id.0, id),
            &self.wrap_data(tenant, id),
            wrapped,
        )?;
        let bytes: &[u8; 32] = bytes
            .as_slice()
            .try_into()
            .map_err(|_| SealError::DoesNotOpen)?;
        Ok(DataKey::new(id, Zeroizing::new(*bytes)))
    }

    fn wrap_data(&self, tenant: TenantId, dek_id: [u8; 4]) -> Vec<u8> {
        length_prefixed(&[b"dek/v1", tenant.0.as_bytes(), &dek_id, &self.id.0])
    }
}

/// A tenant's own key.
pub struct DataKey {
    id: [u8; 4],
    key: RandomizedNonceKey,
    /// Kept to wrap it anew.
    bytes: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey([secret])")
    }
}

impl DataKey {
    fn new(id: [u8; 4], bytes: Zeroizing<[u8; 32]>) -> Self {
        Self {
            id,
            key: key(&bytes),
            bytes,
        }
    }

    /// Seals a value for one place.
    pub fn seal(&self, at: SealedAt<'_>, plain: &[u8]) -> Vec<u8> {
        seal(
            &self.key,
            head(NO_KEK, self.id),
            &at.associated_data(),
            plain,
        )
    }

    /// Opens a value sealed for exactly this place.
    pub fn open(&self, at: SealedAt<'_>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        open(
            &self.key,
            &head(NO_KEK, self.id),
            &at.associated_data(),
            sealed,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(n: u128) -> TenantId {
        TenantId(uuid::Uuid::from_u128(n))
    }

    fn place(tenant: TenantId) -> SealedAt<'static> {
        SealedAt {
            tenant,
            table: "tokens",
            column: "refresh_token",
            row: "",
            generation: 3,
        }
    }

    #[test]
    fn a_value_opens_only_where_it_was_sealed() {
        let kek = KeyEncryptionKey::from_bytes(&[7; 32]);
        let (dek, wrapped) = kek.new_data_key(tenant(1));
        let sealed = dek.seal(place(tenant(1)), b"refresh me");
        let dek = kek.open_data_key(tenant(1), &wrapped).unwrap();
        assert_eq!(
            dek.open(place(tenant(1)), &sealed).unwrap().as_slice(),
            b"refresh me"
        );
        for elsewhere in [
            place(tenant(2)),
            SealedAt {
                table: "x",
                ..place(tenant(1))
            },
            SealedAt {
                column: "x",
                ..place(tenant(1))
            },
            SealedAt {
                row: "x",
                ..place(tenant(1))
            },
            SealedAt {
                generation: 4,
                ..place(tenant(1))
            },
        ] {
            assert!(dek.open(elsewhere, &sealed).is_err(), "{elsewhere:?}");
        }
        assert!(kek.open_data_key(tenant(2), &wrapped).is_err());
        let other = KeyEncryptionKey::from_bytes(&[8; 32]);
        assert!(other.open_data_key(tenant(1), &wrapped).is_err());
    }

    #[test]
    fn any_flipped_or_missing_byte_is_noticed() {
        let kek = KeyEncryptionKey::from_bytes(&[7; 32]);
        let (dek, _) = kek.new_data_key(tenant(1));
        let sealed = dek.seal(place(tenant(1)), b"refresh me");
        for i in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[i] ^= 1;
            assert!(dek.open(place(tenant(1)), &bad).is_err(), "byte {i}");
            assert!(
                dek.open(place(tenant(1)), &sealed[..i]).is_err(),
                "length {i}"
            );
        }
    }

    #[test]
    fn a_created_key_file_reads_back_and_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kek");
        let made = KeyEncryptionKey::create(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let read = parse_key(text.trim()).unwrap();
        assert_eq!(KeyEncryptionKey::from_bytes(&read).id(), made.id());
        assert!(matches!(
            KeyEncryptionKey::create(&path),
            Err(SealError::KeyWrite(..))
        ));
    }
}
