//! Database files that no server uses: a backup while it is written, and a backup on its way to becoming the database again.

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{Connection as _, Row as _};

use super::audit::enter;
use super::{Deed, Holder, MIGRATIONS, StoreError, WrappedKey, migrator, uuid};
use crate::model::{TenantId, Timestamp};

/// The first bytes of every database.
const MAGIC: &[u8] = b"SQLite format 3\0";

/// A clock that is put back after a restore must not make an epoch of the time between come again: epochs go on this far ahead.
const EPOCHS_AHEAD: Duration = Duration::from_hours(1);

/// The version of the schema that this version of the program writes.
pub fn current_schema() -> i64 {
    MIGRATIONS.last().map_or(0, |(number, ..)| *number)
}

/// Why a database file cannot be used as a backup.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The file cannot be read.
    #[error("cannot read {0}")]
    Read(String, #[source] std::io::Error),
    /// It is something else.
    #[error("{0} is not a backup: it is no database of presence-cloud")]
    NotOurs(String),
    /// It was altered, or a part of it is missing.
    #[error("{0} is damaged or incomplete, take another backup: {1}")]
    Damaged(String, String),
    /// This version would not understand it.
    #[error(
        "{0} was written by a newer version of presence-cloud: its schema is {1}, and this version knows up to {2}; use that version"
    )]
    Newer(String, i64, i64),
    /// The database did not do what was asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A stored refresh token with what opens it.
#[derive(Debug)]
pub struct ArchivedToken {
    /// Whose.
    pub tenant: TenantId,
    /// The tenant's wrapped data key.
    pub data_key: Vec<u8>,
    /// Of the token.
    pub generation: i64,
    /// The token.
    pub sealed: Vec<u8>,
}

/// What is in a database file.
#[derive(Debug, Default)]
pub struct Content {
    /// The version of its schema.
    pub schema: i64,
    /// The last moment it tells of. `None`: nothing was ever done.
    pub made_at: Option<Timestamp>,
    /// Tenants that were not off-boarded.
    pub tenants: u64,
    /// Suites that are not revoked.
    pub suites: u64,
    /// All data keys.
    pub data_keys: Vec<WrappedKey>,
    /// The current refresh tokens.
    pub refresh_tokens: Vec<ArchivedToken>,
}

/// What was changed in a backup so that a server may go on with it.
#[derive(Debug, Default)]
pub struct Revived {
    /// Enrolment codes that were forgotten, by tenant.
    pub codes: Vec<(TenantId, String, u64)>,
}

/// An open database file that no server uses.
#[derive(Debug)]
pub struct Archive {
    connection: SqliteConnection,
    /// What it is called in messages: while it is looked at, it lies under another name.
    name: String,
}

/// Copies a database, as it is at one moment, into an empty file. Whoever reads or writes it meanwhile is not held up. The schema is
/// left as it is, so that a newer version can copy what it has not brought up to date yet.
pub async fn copy_database(from: &Path, to: &Path) -> Result<(), ArchiveError> {
    // Not opened by us: closing it would take away the locks that this process may hold on it through SQLite.
    std::fs::metadata(from).map_err(|e| ArchiveError::Read(from.display().to_string(), e))?;
    let failed = |e| StoreError::Database("copy the database", e);
    let options = SqliteConnectOptions::new()
        .filename(from)
        .busy_timeout(Duration::from_secs(5));
    let mut connection = SqliteConnection::connect_with(&options)
        .await
        .map_err(failed)?;
    let target = to.to_str().ok_or_else(|| {
        let odd = std::io::Error::other("its name is no UTF-8");
        ArchiveError::Read(to.display().to_string(), odd)
    })?;
    sqlx::query("VACUUM INTO $1")
        .bind(target)
        .execute(&mut connection)
        .await
        .map_err(failed)?;
    connection.close().await.map_err(failed)?;
    Ok(())
}

/// SQLite takes an empty file for an empty database, and what to say of anything else is ours.
fn check_magic(path: &Path, name: &str) -> Result<(), ArchiveError> {
    use std::io::Read as _;
    let failed = |e| ArchiveError::Read(name.to_owned(), e);
    let mut head = Vec::new();
    std::fs::File::open(path)
        .map_err(failed)?
        .take(16)
        .read_to_end(&mut head)
        .map_err(failed)?;
    if head == MAGIC {
        Ok(())
    } else {
        Err(ArchiveError::NotOurs(name.to_owned()))
    }
}

impl Archive {
    /// Opens a file that is there and checks every page of it. `name` is what it is called in messages.
    pub async fn open(path: &Path, name: String) -> Result<Self, ArchiveError> {
        check_magic(path, &name)?;
        // Nobody else knows the file, and a crash leaves it under a name that counts for nothing: no journal beside it is needed.
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Memory)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .pragma("secure_delete", "ON");
        let damaged = |what: String| ArchiveError::Damaged(name.clone(), what);
        let mut connection = SqliteConnection::connect_with(&options)
            .await
            .map_err(|e| damaged(e.to_string()))?;
        let found: String = sqlx::query("PRAGMA integrity_check(1)")
            .fetch_one(&mut connection)
            .await
            .and_then(|row| row.try_get(0))
            .map_err(|e| damaged(e.to_string()))?;
        if found != "ok" {
            return Err(damaged(found));
        }
        let orphans = sqlx::query("PRAGMA foreign_key_check")
            .fetch_optional(&mut connection)
            .await
            .map_err(|e| damaged(e.to_string()))?;
        if orphans.is_some() {
            return Err(damaged("a row refers to one that is not there".into()));
        }
        Ok(Self { connection, name })
    }

    /// The version of the schema, which has to be one that this version knows.
    async fn schema(&mut self) -> Result<i64, ArchiveError> {
        let rows =
            sqlx::query("SELECT version, success, checksum FROM _sqlx_migrations ORDER BY version")
                .fetch_all(&mut self.connection)
                .await
                .map_err(|_| ArchiveError::NotOurs(self.name.clone()))?;
        let known = migrator(MIGRATIONS.len());
        let mut newest = 0;
        for row in &rows {
            let failed = |e| StoreError::Database("read the version of the schema", e);
            let version: i64 = row.try_get("version").map_err(failed)?;
            let checksum: Vec<u8> = row.try_get("checksum").map_err(failed)?;
            let well: bool = row.try_get("success").map_err(failed)?;
            let Some(step) = known.iter().find(|step| step.version == version) else {
                let newest: i64 = rows
                    .last()
                    .map_or(Ok(version), |row| row.try_get("version"))
                    .map_err(failed)?;
                return Err(ArchiveError::Newer(
                    self.name.clone(),
                    newest,
                    current_schema(),
                ));
            };
            if !well || *step.checksum != *checksum {
                return Err(ArchiveError::NotOurs(self.name.clone()));
            }
            newest = version;
        }
        if newest == 0 {
            return Err(ArchiveError::NotOurs(self.name.clone()));
        }
        Ok(newest)
    }

    /// What is in it.
    pub async fn content(&mut self) -> Result<Content, ArchiveError> {
        let schema = self.schema().await?;
        let failed = |e| StoreError::Database("look into the file", e);
        let counts = sqlx::query(
            "SELECT (SELECT COUNT(*) FROM tenants WHERE status <> 'gone') AS tenants,
                    (SELECT COUNT(*) FROM suites WHERE status = 'active') AS suites,
                    (SELECT MAX(updated_at) FROM tenants) AS changed_at,
                    (SELECT MAX(updated_at) FROM suites) AS suite_changed_at",
        )
        .fetch_one(&mut self.connection)
        .await
        .map_err(failed)?;
        let number =
            |column| -> Result<Option<i64>, StoreError> { counts.try_get(column).map_err(failed) };
        let mut made_at = number("changed_at")?.max(number("suite_changed_at")?);
        if self.has_audit_log().await? {
            let entered: Option<i64> = sqlx::query("SELECT MAX(at) FROM audit")
                .fetch_one(&mut self.connection)
                .await
                .and_then(|row| row.try_get(0))
                .map_err(failed)?;
            made_at = made_at.max(entered);
        }
        let count = |column| -> Result<u64, StoreError> {
            Ok(number(column)?
                .and_then(|n| u64::try_from(n).ok())
                .unwrap_or(0))
        };
        Ok(Content {
            schema,
            made_at: made_at.map(Timestamp::from_millis),
            tenants: count("tenants")?,
            suites: count("suites")?,
            data_keys: self.data_keys(schema).await?,
            refresh_tokens: self.refresh_tokens().await?,
        })
    }

    async fn has_audit_log(&mut self) -> Result<bool, StoreError> {
        sqlx::query("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'audit'")
            .fetch_optional(&mut self.connection)
            .await
            .map(|row| row.is_some())
            .map_err(|e| StoreError::Database("look for the audit log", e))
    }

    async fn data_keys(&mut self, schema: i64) -> Result<Vec<WrappedKey>, StoreError> {
        // Before the third step of the schema nobody could wish to connect in the browser.
        const ONBOARDINGS_SINCE: i64 = 3;
        let failed = |e| StoreError::Database("list the data keys", e);
        let mut keys = Vec::new();
        for row in sqlx::query("SELECT tenant_id, wrapped FROM data_keys")
            .fetch_all(&mut self.connection)
            .await
            .map_err(failed)?
        {
            keys.push(WrappedKey {
                holder: Holder::Tenant,
                tenant: TenantId(uuid(&row, "tenant_id")?),
                wrapped: row.try_get("wrapped").map_err(failed)?,
            });
        }
        if schema >= ONBOARDINGS_SINCE {
            for row in sqlx::query("SELECT onboarding_id, tenant_id, wrapped_key FROM onboardings")
                .fetch_all(&mut self.connection)
                .await
                .map_err(failed)?
            {
                keys.push(WrappedKey {
                    holder: Holder::Onboarding(row.try_get("onboarding_id").map_err(failed)?),
                    tenant: TenantId(uuid(&row, "tenant_id")?),
                    wrapped: row.try_get("wrapped_key").map_err(failed)?,
                });
            }
        }
        Ok(keys)
    }

    async fn refresh_tokens(&mut self) -> Result<Vec<ArchivedToken>, StoreError> {
        let failed = |e| StoreError::Database("list the refresh tokens", e);
        sqlx::query(
            "SELECT tenant_id, wrapped, generation, sealed FROM refresh_tokens JOIN data_keys USING (tenant_id)",
        )
        .fetch_all(&mut self.connection)
        .await
        .map_err(failed)?
        .iter()
        .map(|row| {
            Ok(ArchivedToken {
                tenant: TenantId(uuid(row, "tenant_id")?),
                data_key: row.try_get("wrapped").map_err(failed)?,
                generation: row.try_get("generation").map_err(failed)?,
                sealed: row.try_get("sealed").map_err(failed)?,
            })
        })
        .collect()
    }

    /// Enters a deed into the file's audit log. False when it is of a version that had none.
    pub async fn enter(&mut self, deed: Deed<'_>, now: Timestamp) -> Result<bool, StoreError> {
        let there = self.has_audit_log().await?;
        if there {
            enter(&mut self.connection, deed, now).await?;
        }
        Ok(there)
    }

    /// Brings the schema up to date and makes it safe for a server to go on: what is good once, and may have been used since, is
    /// forgotten; epochs go on ahead of everything that may have been handed out since; and each refresh token is noted as being
    /// renewed, because it may have been, with an end that is not known here.
    pub async fn revive(&mut self, deed: Deed<'_>, now: Timestamp) -> Result<Revived, StoreError> {
        let failed = |e| StoreError::Database("prepare the backup", e);
        migrator(MIGRATIONS.len())
            .run(&mut self.connection)
            .await
            .map_err(|e| StoreError::Migration(self.name.clone(), e))?;
        let mut tx = self.connection.begin().await.map_err(failed)?;
        let mut codes = Vec::new();
        for row in sqlx::query(
            "SELECT tenant_id, name, COUNT(*) AS codes FROM enrolment_codes JOIN tenants USING (tenant_id)
             WHERE used_at IS NULL AND expires_at > $1 GROUP BY tenant_id ORDER BY name",
        )
        .bind(now.as_millis())
        .fetch_all(&mut *tx)
        .await
        .map_err(failed)?
        {
            let number: i64 = row.try_get("codes").map_err(failed)?;
            codes.push((
                TenantId(uuid(&row, "tenant_id")?),
                row.try_get("name").map_err(failed)?,
                u64::try_from(number).unwrap_or(0),
            ));
        }
        for statement in [
            "DELETE FROM enrolment_codes WHERE used_at IS NULL",
            "DELETE FROM sign_ins",
            "DELETE FROM web_sessions",
            "DELETE FROM operator_sessions",
        ] {
            sqlx::query(statement)
                .execute(&mut *tx)
                .await
                .map_err(failed)?;
        }
        sqlx::query("UPDATE tenants SET epoch = MAX(epoch, $1)")
            .bind(now.plus(EPOCHS_AHEAD).as_millis())
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        sqlx::query(
            "UPDATE refresh_tokens SET intent_id = randomblob(16), intent_at = $1 WHERE intent_id IS NULL",
        )
        .bind(now.as_millis())
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
        enter(&mut tx, deed, now).await?;
        tx.commit().await.map_err(failed)?;
        Ok(Revived { codes })
    }

    /// Writes back what is pending.
    pub async fn close(self) -> Result<(), StoreError> {
        self.connection
            .close()
            .await
            .map_err(|e| StoreError::Database("close the file", e))
    }
}
