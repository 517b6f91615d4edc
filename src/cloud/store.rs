//! Tenants, sealed credentials, suites and enrolment codes, in SQLite.
//!
//! Invariants: every statement names the tenant or a key that belongs to exactly one; secrets arrive here sealed; SQL is static
//! text with bound parameters; what was acknowledged survives a crash (`synchronous=FULL`).

mod audit;
mod custody;
mod onboarding;
mod operations;
mod operators;
mod suites;
mod tenants;

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
        Ok(Self { writer, readers })
    }

    /// A number that grows with every change made by an operator.
    pub async fn revision(&self) -> Result<i64, StoreError> {
        sqlx::query("SELECT value FROM revision WHERE id = 1")
            .fetch_one(&self.readers)
            .await
            .and_then(|row| row.try_get(0))
            .map_err(|e| StoreError::Database("read the revision", e))
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

/// Creates the file owner-only before SQLite does it with the process's umask.
fn make_private(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
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
