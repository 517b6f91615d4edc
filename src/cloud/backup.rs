//! Backup beside a running server, and restore onto a machine that has no database.
//!
//! Invariants: a file under its final name is whole, checked and on disk, however the process ends; nothing is ever overwritten;
//! nothing is placed before the key file has opened every data key and refresh token in the backup. Key and database are never in
//! one file.
//!
//! SQLite finds a broken structure, but no byte that changed inside of a value. So a backup carries a digest of itself, where SQLite
//! leaves room for applications: it stays a database that any tool can open. A copy made by other means has none, and is believed.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::digest;
use time::OffsetDateTime;
use time::macros::format_description;
use tokio::time::Instant;

use super::operations::view::count;
use super::store::{
    Action, Actor, Archive, ArchiveError, Content, Deed, Revived, Store, StoreError, copy_database,
    current_schema,
};
use super::tokens::refresh_token_at;
use crate::clock::Clock;
use crate::model::{TenantId, Timestamp};
use crate::park;
use crate::secret::{KekId, KeyRing, SealError, wrapped_by};

/// A file under this ending is not finished, and counts for nothing.
const UNFINISHED: &str = "part";

/// Backups in a folder are named by the time: this, the time, and [`ENDING`].
const PREFIX: &str = "presence-cloud-";

/// See [`PREFIX`].
const ENDING: &str = ".db";

/// Clocks of two machines may differ by this much. More, and times in the backup would lie in the future.
const CLOCKS_DIFFER: Duration = Duration::from_mins(5);

/// Where a database keeps `user_version`, which is the application's: there is the digest of a backup.
const DIGEST_AT: u64 = 60;

/// Bytes of the digest: against accidents, not against somebody who means to alter it.
const DIGEST_LENGTH: usize = 4;

/// Why there is no backup, or why nothing was restored. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The target of a backup is taken.
    #[error("{0} is there already and is kept")]
    Exists(String),
    /// There is a database where the restored one would go.
    #[error(
        "{0} is there: move it away first, together with {0}-wal and {0}-shm, if it is to be replaced"
    )]
    DatabaseThere(String),
    /// A log of a database that is gone: SQLite would take it for a part of the restored one.
    #[error("{0} is left over from a database that is gone; move it away first")]
    LeftOver(String),
    /// Something runs where the server would.
    #[error("something listens on {0}: stop presence-cloud before restoring")]
    Running(SocketAddr),
    /// Somebody is writing the same file.
    #[error("another command is writing {0} just now")]
    Busy(String),
    /// A file or folder.
    #[error("cannot write {0}")]
    Write(String, #[source] io::Error),
    /// The backup or the database.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A plain copy of a database that was in use.
    #[error(
        "{0} lies beside a log, {0}-wal: that is a copy of a database in use and not a backup; make one with: presence-cloud backup"
    )]
    PlainCopy(String),
    /// The key file.
    #[error(
        "the key file cannot be used; put the copy of it that belongs to the backup in its place first"
    )]
    Key(#[source] SealError),
    /// The key file is another one.
    #[error(
        "nothing was restored: {data_keys} of {of} data keys in the backup do not open with {file}; \
         it needs the keys {needed}, and the file has {has}",
        needed = listed(.needed), has = listed(.has)
    )]
    WrongKey {
        /// The key file.
        file: String,
        /// How many do not open.
        data_keys: usize,
        /// Of so many.
        of: usize,
        /// The keys that wrapped what is in the backup.
        needed: Vec<KekId>,
        /// The keys of the file.
        has: Vec<KekId>,
    },
    /// A refresh token does not open with its tenant's data key.
    #[error("nothing was restored: the refresh token of {0} in the backup does not open")]
    Token(TenantId),
    /// Time would run backwards.
    #[error(
        "the backup tells of {0}, and the clock of this machine shows {1}: set the clock first, since suites judge by it"
    )]
    ClockBehind(Timestamp, Timestamp),
}

impl From<StoreError> for BackupError {
    fn from(error: StoreError) -> Self {
        Self::Archive(ArchiveError::Store(error))
    }
}

fn listed(keys: &[KekId]) -> String {
    let ids: Vec<_> = keys.iter().map(ToString::to_string).collect();
    ids.join(", ")
}

/// A key that wraps data keys in a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyNeeded {
    /// The key.
    pub key: KekId,
    /// Data keys it wraps.
    pub data_keys: usize,
    /// Whether the key file has it. `None`: the key file could not be read.
    pub there: Option<bool>,
}

/// A backup that was written. Its text is for the operator.
#[derive(Debug)]
pub struct Made {
    /// The file.
    pub file: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
    /// The version of its schema.
    pub schema: i64,
    /// Tenants in it that were not off-boarded.
    pub tenants: u64,
    /// Suites in it that are not revoked.
    pub suites: u64,
    /// The keys that open it.
    pub keys: Vec<KeyNeeded>,
    /// Whether it stands in the audit log of the database. Not so when that is of an earlier version and has none yet.
    pub entered: bool,
}

/// A database that was restored. Its text is for the operator.
#[derive(Debug)]
pub struct Restored {
    /// The backup.
    pub from: PathBuf,
    /// Where it went.
    pub database: PathBuf,
    /// The last moment the backup tells of.
    pub made_at: Option<Timestamp>,
    /// The version of the schema of the backup.
    pub schema: i64,
    /// Tenants that were not off-boarded.
    pub tenants: u64,
    /// Of them, those that are connected by a service account.
    pub service_accounts: usize,
    /// Suites that are not revoked.
    pub suites: u64,
    /// The keys that open it.
    pub keys: Vec<KeyNeeded>,
    /// Enrolment codes that were forgotten, by tenant.
    pub codes: Vec<(TenantId, String, u64)>,
}

/// A file that is being written beside its final place, which it takes as a whole or never.
struct Unfinished {
    path: PathBuf,
    /// Locked as long as this process lives, so that what a killed one left can be told from what another is writing.
    file: File,
    placed: bool,
}

impl Unfinished {
    /// An empty file beside `place` that only its owner can read.
    fn beside(place: &Path) -> Result<Self, BackupError> {
        let mut name = place.file_name().unwrap_or_default().to_owned();
        name.push(".");
        name.push(UNFINISHED);
        let path = place.with_file_name(name);
        let failed = |e| BackupError::Write(path.display().to_string(), e);
        remove_if_abandoned(&path).map_err(failed)?;
        let mut options = File::options();
        options.read(true).write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&path).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => BackupError::Busy(path.display().to_string()),
            _ => failed(e),
        })?;
        file.try_lock()
            .map_err(|_| BackupError::Busy(path.display().to_string()))?;
        Ok(Self {
            path,
            file,
            placed: false,
        })
    }

    /// Puts everything on disk, then gives the file its name; an error if that is taken.
    async fn place(mut self, place: &Path) -> Result<u64, BackupError> {
        let failed = |e| BackupError::Write(place.display().to_string(), e);
        let sync = |file: File| file.sync_all().map(|()| file);
        let file = with_file(&self.file, sync).await.map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        park::here("backup::before_name").await;
        match std::fs::hard_link(&self.path, place) {
            Ok(()) => std::fs::remove_file(&self.path).map_err(failed)?,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return Err(BackupError::Exists(place.display().to_string()));
            }
            // Some network and memory-card file systems have no second names. There, somebody may take the name in between.
            Err(_) => {
                if place.exists() {
                    return Err(BackupError::Exists(place.display().to_string()));
                }
                std::fs::rename(&self.path, place).map_err(failed)?;
            }
        }
        self.placed = true;
        File::open(folder_of(place))
            .and_then(|folder| folder.sync_all())
            .map_err(failed)?;
        Ok(bytes)
    }
}

/// The digest of a database file, as if it had none; and the one it has.
fn digests(file: &mut File) -> io::Result<([u8; DIGEST_LENGTH], [u8; DIGEST_LENGTH])> {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut stated = [0; DIGEST_LENGTH];
    file.seek(SeekFrom::Start(0))?;
    io::copy(
        &mut (&mut *file).take(DIGEST_AT),
        &mut Digesting(&mut context),
    )?;
    // Shorter files are no databases, and say so when they are opened.
    if file.read_exact(&mut stated).is_ok() {
        io::copy(file, &mut Digesting(&mut context))?;
    }
    let mut found = [0; DIGEST_LENGTH];
    found.copy_from_slice(&context.finish().as_ref()[..DIGEST_LENGTH]);
    Ok((found, stated))
}

/// What is written goes into a digest.
struct Digesting<'a>(&'a mut digest::Context);

impl io::Write for Digesting<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_digest(file: &mut File, digest: [u8; DIGEST_LENGTH]) -> io::Result<()> {
    file.seek(SeekFrom::Start(DIGEST_AT))?;
    file.write_all(&digest)
}

/// Writes into a finished copy what [`check_digest`] finds.
fn put_digest(mut file: File) -> io::Result<()> {
    write_digest(&mut file, [0; DIGEST_LENGTH])?;
    let (found, _) = digests(&mut file)?;
    write_digest(&mut file, found)
}

/// Whether a file is as it was when its digest was written, or has none. The digest is taken out: a database in use has none.
fn check_digest(mut file: File) -> io::Result<bool> {
    let (found, stated) = digests(&mut file)?;
    if stated == [0; DIGEST_LENGTH] {
        return Ok(true);
    }
    write_digest(&mut file, [0; DIGEST_LENGTH])?;
    Ok(found == stated)
}

/// Does something with a file that may take long, beside everything else.
async fn with_file<T: Send + 'static>(
    file: &File,
    what: impl FnOnce(File) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let file = file.try_clone()?;
    let done = tokio::task::spawn_blocking(move || what(file)).await;
    done.map_err(io::Error::other)?
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.placed {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Removes an unfinished file unless somebody is writing it.
fn remove_if_abandoned(path: &Path) -> io::Result<()> {
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file?,
    };
    if file.try_lock().is_ok() {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// Where a backup goes: the file named, or one named by the time in the folder named.
fn target_file(target: &Path, now: Timestamp) -> Result<PathBuf, BackupError> {
    let failed = |e| BackupError::Write(target.display().to_string(), e);
    let target = std::path::absolute(target).map_err(failed)?;
    let file = if target.is_dir() {
        let nanos = i128::from(now.as_millis()) * 1_000_000;
        let format = format_description!(
            "[year]-[month]-[day]T[hour][minute][second].[subsecond digits:3]Z"
        );
        let time = OffsetDateTime::from_unix_timestamp_nanos(nanos)
            .ok()
            .and_then(|time| time.format(format).ok())
            .unwrap_or_else(|| now.as_millis().to_string());
        remove_abandoned(&target).map_err(failed)?;
        target.join(format!("{PREFIX}{time}{ENDING}"))
    } else {
        target
    };
    if file.exists() {
        return Err(BackupError::Exists(file.display().to_string()));
    }
    Ok(file)
}

/// Removes what killed backups left in a folder.
fn remove_abandoned(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(PREFIX) && name.ends_with(&format!("{ENDING}.{UNFINISHED}")) {
            remove_if_abandoned(&path)?;
        }
    }
    Ok(())
}

/// Which keys open it, each with the number of data keys it wraps.
fn keys_needed(content: &Content, ring: Option<&KeyRing>) -> Vec<KeyNeeded> {
    let there = ring.map(KeyRing::ids);
    let mut keys: Vec<KeyNeeded> = Vec::new();
    for one in &content.data_keys {
        let Some(key) = wrapped_by(&one.wrapped) else {
            continue;
        };
        match keys.iter_mut().find(|needed| needed.key == key) {
            Some(needed) => needed.data_keys += 1,
            None => keys.push(KeyNeeded {
                key,
                data_keys: 1,
                there: there.as_ref().map(|ids| ids.contains(&key)),
            }),
        }
    }
    keys
}

/// Writes a backup of the database to a file, or to a file named by the time in a folder. A server may go on using it.
pub async fn backup(
    database: &Path,
    key_file: &Path,
    clock: &Clock,
    by: &Actor,
    target: &Path,
) -> Result<Made, BackupError> {
    let begun = Instant::now();
    let file = target_file(target, clock.now())?;
    let unfinished = Unfinished::beside(&file)?;
    copy_database(database, &unfinished.path).await?;
    let mut archive = Archive::open(&unfinished.path, file.display().to_string()).await?;
    let content = archive.content().await?;
    let detail = format!(
        "{}, {}",
        count(content.tenants, "organisation"),
        count(content.suites, "suite")
    );
    let deed = || Deed {
        by,
        action: Action::BackupMade,
        tenant: None,
        suite: None,
        detail: &detail,
    };
    // The copy tells by itself when it was made.
    archive.enter(deed(), clock.now()).await?;
    archive.close().await?;
    let failed = |e| BackupError::Write(file.display().to_string(), e);
    with_file(&unfinished.file, put_digest)
        .await
        .map_err(failed)?;
    let bytes = unfinished.place(&file).await?;
    let took = begun.elapsed();
    // A database of an earlier version may have a server of that version, so it is left as it is.
    let entered = content.schema == current_schema();
    if entered {
        let store = Store::open(database).await?;
        store.note(deed(), clock.now()).await?;
        store.close().await;
    }
    let ring = KeyRing::read(key_file).ok();
    Ok(Made {
        keys: keys_needed(&content, ring.as_ref()),
        file,
        bytes,
        took,
        schema: content.schema,
        tenants: content.tenants,
        suites: content.suites,
        entered,
    })
}

/// Refuses where a database is or was, and where a server runs.
async fn check_place(database: &Path, listeners: &[SocketAddr]) -> Result<(), BackupError> {
    let name = database.display().to_string();
    if database.exists() {
        return Err(BackupError::DatabaseThere(name));
    }
    for ending in ["-wal", "-shm", "-journal"] {
        let log = format!("{name}{ending}");
        if Path::new(&log).exists() {
            return Err(BackupError::LeftOver(log));
        }
    }
    // A server whose database was taken away goes on writing to what is no longer there.
    for address in listeners {
        let bound = tokio::net::TcpListener::bind(address).await;
        if bound.is_err_and(|e| e.kind() == io::ErrorKind::AddrInUse) {
            return Err(BackupError::Running(*address));
        }
    }
    Ok(())
}

/// Opens all there is with the key file.
fn check_keys(content: &Content, ring: &KeyRing, key_file: &Path) -> Result<(), BackupError> {
    let opens = |tenant, wrapped: &[u8]| ring.open_data_key(tenant, wrapped).is_ok();
    let closed: Vec<_> = content
        .data_keys
        .iter()
        .filter(|one| !opens(one.tenant, &one.wrapped))
        .collect();
    if !closed.is_empty() {
        let mut needed: Vec<_> = content
            .data_keys
            .iter()
            .filter_map(|one| wrapped_by(&one.wrapped))
            .collect();
        needed.sort_unstable();
        needed.dedup();
        return Err(BackupError::WrongKey {
            file: key_file.display().to_string(),
            data_keys: closed.len(),
            of: content.data_keys.len(),
            needed,
            has: ring.ids(),
        });
    }
    for token in &content.refresh_tokens {
        let opened = ring
            .open_data_key(token.tenant, &token.data_key)
            .and_then(|key| {
                key.open(
                    refresh_token_at(token.tenant, token.generation),
                    &token.sealed,
                )
            });
        if opened.is_err() {
            return Err(BackupError::Token(token.tenant));
        }
    }
    Ok(())
}

/// The restored file is to be the service's, also when an administrator runs the command: it gets the owner of its folder.
#[cfg(unix)]
fn give_to_owner_of_folder(file: &File, database: &Path) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let (folder, own) = (std::fs::metadata(folder_of(database))?, file.metadata()?);
    if (folder.uid(), folder.gid()) == (own.uid(), own.gid()) {
        return Ok(());
    }
    std::os::unix::fs::fchown(file, Some(folder.uid()), Some(folder.gid()))
}

/// Makes a backup the database of a machine that has none. `listeners` are where its server would listen.
pub async fn restore(
    from: &Path,
    database: &Path,
    key_file: &Path,
    listeners: &[SocketAddr],
    clock: &Clock,
    by: &Actor,
) -> Result<Restored, BackupError> {
    let name = from.display().to_string();
    let unreadable = |e| ArchiveError::Read(name.clone(), e);
    let from = std::path::absolute(from).map_err(unreadable)?;
    check_place(database, listeners).await?;
    let mut log = from.clone().into_os_string();
    log.push("-wal");
    if Path::new(&log).exists() {
        return Err(BackupError::PlainCopy(name));
    }
    let ring = KeyRing::read(key_file).map_err(BackupError::Key)?;
    let backup = File::open(&from).map_err(unreadable)?;
    // What is checked is what is placed: a copy that nobody else knows. The backup is only read.
    let unfinished = Unfinished::beside(database)?;
    let failed = |e| BackupError::Write(unfinished.path.display().to_string(), e);
    let copied = with_file(&unfinished.file, move |mut copy| {
        let mut backup = backup;
        io::copy(&mut backup, &mut copy)?;
        check_digest(copy)
    });
    if !copied.await.map_err(failed)? {
        let what = "it is not as it was written".to_owned();
        return Err(ArchiveError::Damaged(name, what).into());
    }
    let mut archive = Archive::open(&unfinished.path, name).await?;
    let content = archive.content().await?;
    check_keys(&content, &ring, key_file)?;
    let now = clock.now();
    if let Some(made_at) = content.made_at
        && made_at > now.plus(CLOCKS_DIFFER)
    {
        return Err(BackupError::ClockBehind(made_at, now));
    }
    let detail = match content.made_at {
        Some(made_at) => format!("as of {made_at}"),
        None => "nothing was in it".into(),
    };
    let deed = Deed {
        by,
        action: Action::BackupRestored,
        tenant: None,
        suite: None,
        detail: &detail,
    };
    let Revived { codes } = archive.revive(deed, now).await?;
    archive.close().await?;
    #[cfg(unix)]
    give_to_owner_of_folder(&unfinished.file, database).map_err(failed)?;
    unfinished.place(database).await?;
    Ok(Restored {
        from,
        database: database.to_owned(),
        made_at: content.made_at,
        schema: content.schema,
        tenants: content.tenants,
        service_accounts: content.refresh_tokens.len(),
        suites: content.suites,
        keys: keys_needed(&content, Some(&ring)),
        codes,
    })
}

fn size(bytes: u64) -> String {
    let kib = bytes.div_ceil(1024);
    if kib < 10 * 1024 {
        format!("{kib} KiB")
    } else {
        format!("{} MiB", kib / 1024)
    }
}

fn millis(took: Duration) -> String {
    format!("{}.{:03} s", took.as_secs(), took.subsec_millis())
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        writeln!(f, "Wrote {file}")?;
        writeln!(
            f,
            "Size             {}, written and checked in {}",
            size(self.bytes),
            millis(self.took)
        )?;
        writeln!(
            f,
            "Organisations    {}, with {}",
            self.tenants,
            count(self.suites, "suite")
        )?;
        writeln!(f, "Schema           {}", self.schema)?;
        let mut lost = false;
        for one in &self.keys {
            let (id, n) = (one.key, one.data_keys);
            let there = match one.there {
                Some(true) => "in the key file",
                Some(false) => "MISSING in the key file",
                None => "the key file cannot be read",
            };
            lost |= one.there != Some(true);
            writeln!(f, "Opens with       key {id} ({n} data keys), {there}")?;
        }
        if !self.entered {
            writeln!(
                f,
                "The database is of an earlier version, so it was left as it is, and the backup does not stand in its audit log."
            )?;
        }
        if lost {
            writeln!(
                f,
                "Some credentials in it do not open with the key file as it is; see: presence-cloud keys list"
            )?;
        }
        f.write_str(
            "The key file is not in it. Keep a copy of that apart from it: who has both can use the credentials, who lost it has none.",
        )
    }
}

impl fmt::Display for Restored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Restored {}", self.database.display())?;
        let from = self.from.display();
        match self.made_at {
            Some(at) => writeln!(f, "From             {from}, as of {at}")?,
            None => writeln!(f, "From             {from}")?,
        }
        writeln!(
            f,
            "Organisations    {} ({} by service account), with {}",
            self.tenants,
            self.service_accounts,
            count(self.suites, "suite")
        )?;
        for one in &self.keys {
            writeln!(
                f,
                "Opens with       key {} ({} data keys)",
                one.key, one.data_keys
            )?;
        }
        if self.schema != current_schema() {
            writeln!(
                f,
                "Schema           {}, brought up to date from {}",
                current_schema(),
                self.schema
            )?;
        }
        f.write_str(
            "\nEverything is as it was then. See to what has happened since, before you start the server:\n\
             - Suites revoked since are active again: presence-cloud suite list, suite revoke.\n\
             - Organisations off-boarded since are connected again: presence-cloud tenant offboard.\n\
             - Tokens for the admin API and links to status pages withdrawn since are good again.\n\
             - Organisations connected since have to connect once more; suites enrolled since need a new code.\n",
        )?;
        if self.service_accounts > 0 {
            f.write_str(
                "- Refresh tokens of service accounts are those of then. Microsoft keeps them good beside later ones until it revokes them;\n\
                 \x20 where it did, health says that a new sign-in is needed.\n",
            )?;
        }
        if self.codes.is_empty() {
            f.write_str("- No enrolment code was waiting to be used.\n")?;
        } else {
            f.write_str(
                "- Enrolment codes that were waiting then may have been used since, so they are forgotten. Invite again for:\n",
            )?;
            for (tenant, name, number) in &self.codes {
                writeln!(f, "    {name} ({tenant}): {number}")?;
            }
        }
        f.write_str("- Everybody has to sign in anew on the pages.")
    }
}
