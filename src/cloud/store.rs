//! Tenants, sealed credentials, suites and enrolment codes, in SQLite.
//!
//! Invariants: every statement names the tenant or a key that belongs to exactly one; secrets arrive here sealed; SQL is static
//! text with bound parameters; what was acknowledged survives a crash (`synchronous=FULL`).

mod alerts;
mod api_tokens;
mod archive;
mod audit;
mod custody;
mod onboarding;
mod operations;
mod operators;
mod suites;
mod tenants;

pub use alerts::{Addressee, Event, Message, Waiting};
pub use api_tokens::ApiToken;
pub use archive::{
    Archive, ArchiveError, ArchivedToken, Content, Revived, copy_database, current_schema,
};
pub use audit::{Action, Actor, AuditEntry, Deed};
pub use custody::{Destroyed, Holder, Intent, Rewrapped, SealedRefreshToken, WrappedKey};
pub use onboarding::{
    ConnectionRow, NewOnboarding, OnboardingRow, OnboardingStep, SignInPurpose, SignInRow,
    WebSessionRow,
};
pub use operations::{HistoryEntry, RefreshFacts, Seen};
pub use operators::{OperatorSession, Role};
pub use suites::{EnrolError, SuiteKey, SuiteRow};
pub use tenants::{ConnectionKind, NewTenant, TenantRow, TenantStatus};

use std::path::Path;
use std::time::Duration;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{Row as _, SqlStr, SqliteTransaction};
use tokio::time::Instant;

use crate::clock::Clock;

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database answered with an error.
    #[error("the database failed while trying to {0}")]
    Database(&'static str, #[source] sqlx::Error),
    /// The file is damaged; nothing was touched.
    #[error("the database file {0} is damaged: {1}; restore it from a backup")]
    Damaged(String, String),
    /// The file was written by a newer or altered version.
    #[error(
        "the database {0} does not fit this version of presence-cloud; was it written by a newer one?"
    )]
    Migration(String, #[source] sqlx::migrate::MigrateError),
    /// A row does not make sense.
    #[error("the database holds something this version does not understand: {0}")]
    Nonsense(&'static str),
}

/// The database. Clones share the connections.
#[derive(Clone, Debug)]
pub struct Store {
    /// One connection: SQLite has one writer.
    writer: SqlitePool,
    readers: SqlitePool,
    timings: StoreTimings,
}

/// Where it is told how long the accesses took that presence depends on.
#[derive(Clone, Debug)]
pub struct StoreTimings {
    /// Reading.
    pub read: metrics::Histogram,
    /// Writing, until it would survive a crash.
    pub write: metrics::Histogram,
}

impl Default for StoreTimings {
    /// Nobody wants to know.
    fn default() -> Self {
        Self {
            read: metrics::Histogram::noop(),
            write: metrics::Histogram::noop(),
        }
    }
}

/// Tells how long the work took.
async fn timed<T>(told: &metrics::Histogram, work: impl Future<Output = T>) -> T {
    let start = Instant::now();
    let outcome = work.await;
    told.record(start.elapsed());
    outcome
}

/// Who waits longer for a connection to the file is given up.
const WAIT: Duration = Duration::from_secs(10);

/// Longer than anything takes.
const FOR_EVER: Duration = Duration::from_hours(24 * 3650);

/// The schema, step by step. A step that has shipped is frozen.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "init", include_str!("store/migrations/0001_init.sql")),
    (
        2,
        "custody",
        include_str!("store/migrations/0002_custody.sql"),
    ),
    (
        3,
        "onboarding",
        include_str!("store/migrations/0003_onboarding.sql"),
    ),
    (
        4,
        "operations",
        include_str!("store/migrations/0004_operations.sql"),
    ),
    (
        5,
        "alert_messages",
        include_str!("store/migrations/0005_alert_messages.sql"),
    ),
];

/// The schema as it was after so many steps.
fn migrator(steps: usize) -> Migrator {
    let steps = MIGRATIONS.iter().take(steps).map(|(number, name, sql)| {
        let sql = SqlStr::from_static(sql);
        Migration::new(*number, (*name).into(), MigrationType::Simple, sql, false)
    });
    Migrator::with_migrations(steps.collect())
}

impl Store {
    /// Opens the file, or makes it (readable by its owner only), checks it, and brings its schema up to date.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_with(path, WAIT).await
    }

    /// As [`Store::open`], where `clock` tells the time: nobody is given up while it may be moved, because a minute of it can pass
    /// while the disk is writing.
    pub async fn open_beside(path: &Path, clock: &Clock) -> Result<Self, StoreError> {
        let wait = if clock.can_be_moved() { FOR_EVER } else { WAIT };
        Self::open_with(path, wait).await
    }

    async fn open_with(path: &Path, wait: Duration) -> Result<Self, StoreError> {
        let name = path.display().to_string();
        let failed = |e| StoreError::Database("open the file", e);
        make_private(path).map_err(|e| failed(sqlx::Error::Io(e)))?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .pragma("secure_delete", "ON")
            .busy_timeout(Duration::from_secs(5));
        // Connections to a file need no replacement. With time limits the pool runs a maintenance task that, when the pool is
        // closed at the wrong moment, counts below zero and spins for ever (sqlx-core 0.9.0, pool/inner.rs).
        let pool = || {
            SqlitePoolOptions::new()
                .idle_timeout(None)
                .max_lifetime(None)
        };
        let writer = pool()
            .max_connections(1)
            .acquire_timeout(wait)
            .connect_with(options.clone())
            .await
            .map_err(failed)?;
        let found: String = sqlx::query("PRAGMA quick_check(1)")
            .fetch_one(&writer)
            .await
            .and_then(|row| row.try_get(0))
            .map_err(failed)?;
        if found != "ok" {
            return Err(StoreError::Damaged(name, found));
        }
        migrator(MIGRATIONS.len())
            .run(&writer)
            .await
            .map_err(|e| StoreError::Migration(name, e))?;
        let readers = pool()
            .max_connections(4)
            .acquire_timeout(wait)
            .connect_with(options.read_only(true))
            .await
            .map_err(failed)?;
        Ok(Self {
            writer,
            readers,
            timings: StoreTimings::default(),
        })
    }

    /// The same, telling how long it takes.
    #[must_use]
    pub fn timed(self, timings: StoreTimings) -> Self {
        Self { timings, ..self }
    }

    /// Whether it can be read and written at this moment: writes a number that means nothing, so that it survives a crash.
    pub async fn check(&self) -> Result<(), StoreError> {
        self.revision().await?;
        let failed = |e| StoreError::Database("write for a check", e);
        let write = async {
            let found: i64 = sqlx::query("PRAGMA user_version")
                .fetch_one(&self.writer)
                .await
                .and_then(|row| row.try_get(0))
                .map_err(failed)?;
            // A pragma takes no parameters; two texts are enough to make it another number each time.
            let other = if found == 1 {
                "PRAGMA user_version = 2"
            } else {
                "PRAGMA user_version = 1"
            };
            sqlx::query(other)
                .execute(&self.writer)
                .await
                .map_err(failed)?;
            Ok(())
        };
        timed(&self.timings.write, write).await
    }

    /// A number that grows with every change made by an operator.
    pub async fn revision(&self) -> Result<i64, StoreError> {
        let read = sqlx::query("SELECT value FROM revision WHERE id = 1").fetch_one(&self.readers);
        timed(&self.timings.read, read)
            .await
            .and_then(|row| row.try_get(0))
            .map_err(|e| StoreError::Database("read the revision", e))
    }

    /// Connections to the file that are in use just now.
    pub fn in_use(&self) -> usize {
        let of = |pool: &SqlitePool| (pool.size() as usize).saturating_sub(pool.num_idle());
        of(&self.writer) + of(&self.readers)
    }

    /// Begins to write; nobody else does until it is over.
    async fn begin(&self) -> Result<SqliteTransaction<'static>, sqlx::Error> {
        const BEGIN: &str = "BEGIN IMMEDIATE";
        match self.writer.begin_with(BEGIN).await {
            Err(sqlx::Error::InvalidSavePointStatement) => {
                // SQLite has ended a transaction by itself, because the disk was full for example, and sqlx 0.9.0 counts it as open
                // for ever: that connection is of no use any more.
                self.writer.acquire().await?.close().await?;
                self.writer.begin_with(BEGIN).await
            }
            begun => begun,
        }
    }

    /// Writes back what is pending and closes the file.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// Creates the file owner-only before SQLite does it with the process's umask. One that is there is not opened: closing it would take
/// away the locks that this process may hold on it through SQLite.
fn make_private(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

const BUMP_REVISION: &str = "UPDATE revision SET value = value + 1 WHERE id = 1";

/// A UUID column.
fn uuid(row: &SqliteRow, column: &str) -> Result<uuid::Uuid, StoreError> {
    let text: &str = row
        .try_get(column)
        .map_err(|e| StoreError::Database("read an id", e))?;
    uuid::Uuid::try_parse(text).map_err(|_| StoreError::Nonsense("an id that is no UUID"))
}

/// A UUID column that may be empty.
fn optional_uuid(row: &SqliteRow, column: &str) -> Result<Option<uuid::Uuid>, StoreError> {
    let text: Option<&str> = row
        .try_get(column)
        .map_err(|e| StoreError::Database("read an id", e))?;
    text.map(uuid::Uuid::try_parse)
        .transpose()
        .map_err(|_| StoreError::Nonsense("an id that is no UUID"))
}

#[cfg(test)]
mod tests;
