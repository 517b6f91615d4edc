//! The key file: the current key-encryption key, and the earlier ones that can still open.
//!
//! The first line is the current key, further lines are earlier ones; each is 32 bytes in base64. The file is only ever replaced as
//! a whole, so that whoever reads it sees either the old ring or the new one. What is wrapped is always wrapped by the first line
//! as it stands in the file at that moment: a process that runs through a rotation needs no restart.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::hkdf;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::seal::{DataKey, KekId, KeyEncryptionKey, SealError, parse_key, wrapped_by};
use super::{random_bytes, read_secret_file};
use crate::model::TenantId;

/// Most keys in a file: many more than anybody rotates through, few enough to be read at each use.
const MAX_KEYS: usize = 64;

/// The keys of the key file.
pub struct KeyRing {
    path: PathBuf,
    /// The current one first; never empty.
    keys: RwLock<Arc<[KeyEncryptionKey]>>,
}

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyRing([secret])")
    }
}

impl KeyRing {
    /// Reads the key file, which only its owner may be able to read.
    pub fn read(path: &Path) -> Result<Self, SealError> {
        Ok(Self {
            path: path.to_owned(),
            keys: RwLock::new(read_keys(path)?),
        })
    }

    /// Makes a first key in a new owner-only file; an existing file is left alone and is an error.
    pub fn create(path: &Path) -> Result<Self, SealError> {
        KeyEncryptionKey::create(path)?;
        Self::read(path)
    }

    /// The ids of the keys, the current one first, as the file was last read.
    pub fn ids(&self) -> Vec<KekId> {
        self.keys().iter().map(KeyEncryptionKey::id).collect()
    }

    /// The id of the key that wraps, as the file stands now.
    pub fn current(&self) -> Result<KekId, SealError> {
        Ok(self.read_again()?[0].id())
    }

    /// Makes a data key for a tenant, wrapped by the current key of the file: the key, and its wrapped form to store.
    pub fn new_data_key(&self, tenant: TenantId) -> Result<(DataKey, Vec<u8>), SealError> {
        Ok(self.read_again()?[0].new_data_key(tenant))
    }

    /// Opens a tenant's stored data key with the key that wrapped it. A key not seen so far has the file read again, once.
    pub fn open_data_key(&self, tenant: TenantId, wrapped: &[u8]) -> Result<DataKey, SealError> {
        let id = wrapped_by(wrapped).ok_or(SealError::DoesNotOpen)?;
        let find = |keys: &[KeyEncryptionKey]| keys.iter().position(|key| key.id() == id);
        let mut keys = self.keys();
        let at = if let Some(at) = find(&keys) {
            at
        } else {
            keys = self.read_again()?;
            find(&keys).ok_or(SealError::UnknownKey(id))?
        };
        keys[at].open_data_key(tenant, wrapped)
    }

    /// A stored data key wrapped anew by the current key; `None` when that one has wrapped it already.
    pub fn rewrap(&self, tenant: TenantId, wrapped: &[u8]) -> Result<Option<Vec<u8>>, SealError> {
        let keys = self.keys();
        if wrapped_by(wrapped) == Some(keys[0].id()) {
            return Ok(None);
        }
        let data_key = self.open_data_key(tenant, wrapped)?;
        Ok(Some(self.keys()[0].wrap_data_key(tenant, &data_key)))
    }

    /// A key for one purpose from each key of the file as it stands now, the current one first. None of them tells anything of the
    /// key it comes from, or of one for another purpose. What was retired is not among them, whoever has read the file before.
    pub fn derived(&self, purpose: &str) -> Result<Vec<Zeroizing<[u8; 32]>>, SealError> {
        let text = read_secret_file(&self.path).map_err(SealError::KeyFile)?;
        let keys = lines(text.expose())
            .take(MAX_KEYS)
            .map(|line| Ok(derive(&*parse_key(line)?, purpose)))
            .collect::<Result<Vec<_>, SealError>>()?;
        if keys.is_empty() {
            return Err(SealError::KeyForm);
        }
        Ok(keys)
    }

    fn keys(&self) -> Arc<[KeyEncryptionKey]> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn read_again(&self) -> Result<Arc<[KeyEncryptionKey]>, SealError> {
        let keys = read_keys(&self.path)?;
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&keys);
        Ok(keys)
    }
}

/// HKDF (RFC 5869) with SHA-256.
fn derive(key: &[u8; 32], purpose: &str) -> Zeroizing<[u8; 32]> {
    let mut derived = Zeroizing::new([0; 32]);
    hkdf::Salt::new(hkdf::HKDF_SHA256, b"presence-bridge")
        .extract(key)
        .expand(&[purpose.as_bytes()], hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut *derived))
        .expect("HKDF gives 32 bytes");
    derived
}

fn read_keys(path: &Path) -> Result<Arc<[KeyEncryptionKey]>, SealError> {
    let text = read_secret_file(path).map_err(SealError::KeyFile)?;
    let keys = lines(text.expose())
        .map(|line| Ok(KeyEncryptionKey::from_bytes(&*parse_key(line)?)))
        .collect::<Result<Vec<_>, SealError>>()?;
    if keys.is_empty() || keys.len() > MAX_KEYS {
        return Err(SealError::KeyForm);
    }
    Ok(keys.into())
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty())
}

/// The key file, held so that nobody else changes it meanwhile.
///
/// The lock lies on the folder, because the file itself is replaced. Readers do not need it.
#[derive(Debug)]
pub struct KeyFile {
    path: PathBuf,
    folder: File,
}

impl KeyFile {
    /// Waits for nobody: an error when another is changing the file.
    pub fn lock(path: &Path) -> Result<Self, SealError> {
        let failed = |e| SealError::KeyWrite(path.display().to_string(), e);
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let folder = File::open(folder).map_err(failed)?;
        folder.try_lock().map_err(|e| match e {
            std::fs::TryLockError::WouldBlock => SealError::KeyBusy(path.display().to_string()),
            std::fs::TryLockError::Error(e) => failed(e),
        })?;
        Ok(Self {
            path: path.to_owned(),
            folder,
        })
    }

    /// Puts a new key before those that are there. Returns its id.
    pub fn add_key(&self) -> Result<KekId, SealError> {
        let there = read_secret_file(&self.path).map_err(SealError::KeyFile)?;
        let bytes = Zeroizing::new(random_bytes::<32>());
        let mut text = Zeroizing::new(STANDARD.encode(*bytes));
        for line in lines(there.expose()).take(MAX_KEYS - 1) {
            // What cannot be read is not written again as if it could.
            parse_key(line)?;
            text.push('\n');
            text.push_str(line);
        }
        text.push('\n');
        self.replace(&text)?;
        Ok(KeyEncryptionKey::from_bytes(&bytes).id())
    }

    /// Leaves the current key and drops the earlier ones. Returns the ids of those dropped.
    pub fn drop_earlier_keys(&self) -> Result<Vec<KekId>, SealError> {
        let there = read_secret_file(&self.path).map_err(SealError::KeyFile)?;
        let mut keys = lines(there.expose());
        let current = keys.next().ok_or(SealError::KeyForm)?;
        let dropped = keys
            .map(|line| Ok(KeyEncryptionKey::from_bytes(&*parse_key(line)?).id()))
            .collect::<Result<Vec<_>, SealError>>()?;
        if !dropped.is_empty() {
            self.replace(&Zeroizing::new(format!("{current}\n")))?;
        }
        Ok(dropped)
    }

    /// Writes beside the file, then takes its name: a crash leaves the old file or the new one, never a part of one.
    fn replace(&self, text: &str) -> Result<(), SealError> {
        use std::io::Write as _;
        let write = || -> std::io::Result<()> {
            let mut name = self.path.file_name().unwrap_or_default().to_owned();
            name.push(".new");
            let new = self.path.with_file_name(name);
            // Left over by a crash; we hold the lock, so nobody is writing it.
            match std::fs::remove_file(&new) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let mut options = File::options();
            options.write(true).create_new(true);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            let mut file = options.open(&new)?;
            file.write_all(text.as_bytes())?;
            #[cfg(unix)]
            {
                use std::os::unix::fs::MetadataExt as _;
                // Changed by the administrator, it must stay readable for the service.
                let (old, own) = (std::fs::metadata(&self.path)?, file.metadata()?);
                if (old.uid(), old.gid()) != (own.uid(), own.gid()) {
                    std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()))?;
                }
            }
            file.sync_all()?;
            std::fs::rename(&new, &self.path)?;
            self.folder.sync_all()
        };
        write().map_err(|e| SealError::KeyWrite(self.path.display().to_string(), e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENANT: TenantId = TenantId(uuid::Uuid::from_u128(1));

    fn file() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        KeyRing::create(&path).unwrap();
        (dir, path)
    }

    #[test]
    fn a_derived_key_is_for_one_purpose_and_the_same_for_whoever_reads_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let ring = KeyRing::create(&path).unwrap();
        let (one, other) = (ring.derived("one").unwrap(), ring.derived("other").unwrap());
        assert_eq!(KeyRing::read(&path).unwrap().derived("one").unwrap(), one);
        assert_ne!(one, other);
        KeyFile::lock(&path).unwrap().add_key().unwrap();
        let both = ring.derived("one").unwrap();
        assert!(both.len() == 2 && both[1] == one[0] && both[0] != one[0]);
    }

    #[test]
    fn a_ring_read_before_a_rotation_opens_and_wraps_with_the_new_key() {
        let (_dir, path) = file();
        let ring = KeyRing::read(&path).unwrap();
        let (_, old) = ring.new_data_key(TENANT).unwrap();
        let added = KeyFile::lock(&path).unwrap().add_key().unwrap();
        // The ring has not looked again yet; what another process wrapped with the new key opens all the same.
        let other = KeyRing::read(&path).unwrap();
        let rewrapped = other.rewrap(TENANT, &old).unwrap().unwrap();
        assert_eq!(wrapped_by(&rewrapped), Some(added));
        assert_eq!(ring.ids().len(), 1);
        ring.open_data_key(TENANT, &rewrapped).unwrap();
        assert_eq!(ring.ids(), other.ids());
        let (_, new) = ring.new_data_key(TENANT).unwrap();
        assert_eq!(wrapped_by(&new), Some(added));
        ring.open_data_key(TENANT, &old).unwrap();
        assert!(ring.rewrap(TENANT, &new).unwrap().is_none());
    }

    #[test]
    fn a_re_wrapped_data_key_opens_what_it_sealed_before() {
        let (_dir, path) = file();
        let at = crate::secret::SealedAt {
            tenant: TENANT,
            table: "t",
            column: "c",
            row: "",
            generation: 1,
        };
        let ring = KeyRing::read(&path).unwrap();
        let (key, old) = ring.new_data_key(TENANT).unwrap();
        let sealed = key.seal(at, b"value");
        KeyFile::lock(&path).unwrap().add_key().unwrap();
        ring.current().unwrap();
        let new = ring.rewrap(TENANT, &old).unwrap().unwrap();
        let key = ring.open_data_key(TENANT, &new).unwrap();
        assert_eq!(key.open(at, &sealed).unwrap().as_slice(), b"value");
    }

    #[test]
    fn a_dropped_key_opens_nothing_any_more_and_the_error_names_it() {
        let (_dir, path) = file();
        let (_, old) = KeyRing::read(&path).unwrap().new_data_key(TENANT).unwrap();
        let file = KeyFile::lock(&path).unwrap();
        file.add_key().unwrap();
        assert_eq!(file.drop_earlier_keys().unwrap().len(), 1);
        assert!(file.drop_earlier_keys().unwrap().is_empty());
        let ring = KeyRing::read(&path).unwrap();
        let Err(SealError::UnknownKey(id)) = ring.open_data_key(TENANT, &old) else {
            panic!("it is unknown")
        };
        assert_eq!(Some(id), wrapped_by(&old));
        assert!(matches!(
            ring.open_data_key(TENANT, b"short"),
            Err(SealError::DoesNotOpen)
        ));
    }

    #[test]
    fn only_one_at_a_time_changes_the_file_and_it_stays_private() {
        let (_dir, path) = file();
        let file = KeyFile::lock(&path).unwrap();
        assert!(matches!(KeyFile::lock(&path), Err(SealError::KeyBusy(_))));
        // As a crash leaves it.
        std::fs::write(path.with_file_name("key.new"), "half a k").unwrap();
        file.add_key().unwrap();
        assert!(!path.with_file_name("key.new").exists());
        assert_eq!(KeyRing::read(&path).unwrap().ids().len(), 2);
        drop(file);
        KeyFile::lock(&path).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn a_line_that_is_no_key_is_an_error_and_is_never_written_again() {
        let (_dir, path) = file();
        let good = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{good}nonsense\n")).unwrap();
        assert!(matches!(KeyRing::read(&path), Err(SealError::KeyForm)));
        let file = KeyFile::lock(&path).unwrap();
        assert!(matches!(file.add_key(), Err(SealError::KeyForm)));
        assert!(file.drop_earlier_keys().is_err());
        assert!(std::fs::read_to_string(&path).unwrap().contains("nonsense"));
    }
}
