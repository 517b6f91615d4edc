use std::time::Duration;

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::audit::enter;
use super::{Action, Actor, BUMP_REVISION, Deed, Store, StoreError, timed, uuid};
use crate::model::{KeyId, SuiteId, TenantId, Timestamp};

/// Within this time the same code with the same key gives the same answer again, so that a lost answer costs nothing.
const REPEAT_ENROLMENT: Duration = Duration::from_mins(10);

/// A key that a suite signs with, and whose it is.
#[derive(Debug, Clone)]
pub struct SuiteKey {
    /// The key.
    pub key: KeyId,
    /// Whose it is.
    pub suite: SuiteId,
    /// Whose the suite is.
    pub tenant: TenantId,
    /// Ed25519, 32 bytes.
    pub public_key: Vec<u8>,
    /// Set when a newer key has replaced it.
    pub valid_until: Option<Timestamp>,
}

/// A suite as listed.
#[derive(Debug, Clone)]
pub struct SuiteRow {
    /// Its id.
    pub id: SuiteId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Name for people.
    pub name: String,
    /// False once revoked.
    pub active: bool,
    /// When it enrolled.
    pub created_at: Timestamp,
    /// When it was last seen with an open stream, to within half a minute; `None`: never.
    pub last_seen_at: Option<Timestamp>,
    /// What its agent said it is when it was last seen.
    pub agent_version: Option<String>,
}

/// Why a suite could not enrol.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// Unknown, used up or expired: one answer, so that nothing can be learned.
    #[error("the enrolment code is not valid")]
    NotValid,
    /// The key belongs to a suite already.
    #[error("the key is already enrolled")]
    KeyInUse,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn suite_key(row: &SqliteRow) -> Result<SuiteKey, StoreError> {
    let failed = |e| StoreError::Database("read a suite's key", e);
    let valid_until: Option<i64> = row.try_get("valid_until").map_err(failed)?;
    Ok(SuiteKey {
        key: KeyId(uuid(row, "key_id")?),
        suite: SuiteId(uuid(row, "suite_id")?),
        tenant: TenantId(uuid(row, "tenant_id")?),
        public_key: row.try_get("public_key").map_err(failed)?,
        valid_until: valid_until.map(Timestamp::from_millis),
    })
}

impl Store {
    /// Stores an enrolment code for a tenant that is there and not gone; false when it is not.
    pub async fn put_enrolment_code(
        &self,
        tenant: TenantId,
        code_hash: [u8; 32],
        by: &Actor,
        now: Timestamp,
        expires_at: Timestamp,
    ) -> Result<bool, StoreError> {
        let failed = |e| StoreError::Database("store an enrolment code", e);
        let mut tx = self.begin().await.map_err(failed)?;
        let stored = sqlx::query(
            "INSERT INTO enrolment_codes (code_hash, tenant_id, created_at, expires_at)
             SELECT $1, tenant_id, $3, $4 FROM tenants WHERE tenant_id = $2 AND status <> 'gone'",
        )
        .bind(code_hash.as_slice())
        .bind(tenant.to_string())
        .bind(now.as_millis())
        .bind(expires_at.as_millis())
        .execute(&mut *tx)
        .await
        .map_err(failed)?
        .rows_affected();
        if stored == 0 {
            return Ok(false);
        }
        let detail = format!("good until {}", expires_at.to_minute());
        let deed = Deed {
            by,
            action: Action::SuiteInvited,
            tenant: Some(tenant),
            suite: None,
            detail: &detail,
        };
        enter(&mut tx, deed, now).await?;
        tx.commit().await.map_err(failed)?;
        Ok(true)
    }

    /// How many codes of a tenant could be used now.
    pub async fn open_enrolment_codes(
        &self,
        tenant: TenantId,
        now: Timestamp,
    ) -> Result<i64, StoreError> {
        sqlx::query(
            "SELECT count(*) FROM enrolment_codes WHERE tenant_id = $1 AND used_at IS NULL AND expires_at > $2",
        )
        .bind(tenant.to_string())
        .bind(now.as_millis())
        .fetch_one(&self.readers)
        .await
        .and_then(|row| row.try_get(0))
        .map_err(|e| StoreError::Database("count the enrolment codes", e))
    }

    /// Trades a code for a suite with this key.
    pub async fn enrol(
        &self,
        code_hash: [u8; 32],
        public_key: &[u8],
        name: &str,
        now: Timestamp,
    ) -> Result<SuiteKey, EnrolError> {
        let failed = |e| StoreError::Database("enrol a suite", e);
        // Guessing must not keep the writer busy: what cannot be valid gets no further than the readers.
        let plausible = sqlx::query(
            "SELECT 1 FROM enrolment_codes WHERE code_hash = $1
             AND ((used_at IS NULL AND expires_at > $2) OR used_at >= $3)",
        )
        .bind(code_hash.as_slice())
        .bind(now.as_millis())
        .bind(now.minus(REPEAT_ENROLMENT).as_millis())
        .fetch_optional(&self.readers)
        .await
        .map_err(failed)?;
        if plausible.is_none() {
            return Err(EnrolError::NotValid);
        }
        let mut tx = self.begin().await.map_err(failed)?;
        let code = sqlx::query(
            "SELECT c.tenant_id, c.expires_at, c.used_at, c.used_by FROM enrolment_codes c
             JOIN tenants t ON t.tenant_id = c.tenant_id AND t.status <> 'gone' WHERE c.code_hash = $1",
        )
        .bind(code_hash.as_slice())
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed)?
        .ok_or(EnrolError::NotValid)?;
        let tenant = TenantId(uuid(&code, "tenant_id")?);
        let used_at: Option<i64> = code.try_get("used_at").map_err(failed)?;
        if let Some(used_at) = used_at {
            let used_by = uuid(&code, "used_by")?;
            let again = sqlx::query(
                "SELECT k.*, s.tenant_id FROM suite_keys k JOIN suites s ON s.suite_id = k.suite_id AND s.status = 'active'
                 WHERE k.suite_id = $1 AND k.public_key = $2",
            )
            .bind(used_by.to_string())
            .bind(public_key)
            .fetch_optional(&mut *tx)
            .await
            .map_err(failed)?;
            let recent = Timestamp::from_millis(used_at).until(now) <= REPEAT_ENROLMENT;
            return match again {
                Some(row) if recent => Ok(suite_key(&row)?),
                _ => Err(EnrolError::NotValid),
            };
        }
        let expires_at: i64 = code.try_get("expires_at").map_err(failed)?;
        if now.as_millis() >= expires_at {
            return Err(EnrolError::NotValid);
        }
        let (suite, key) = (SuiteId::random(), KeyId::random());
        sqlx::query(
            "INSERT INTO suites (suite_id, tenant_id, name, status, created_at, updated_at) VALUES ($1, $2, $3, 'active', $4, $4)",
        )
        .bind(suite.to_string())
        .bind(tenant.to_string())
        .bind(name)
        .bind(now.as_millis())
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
        insert_key(&mut tx, key, suite, public_key, now).await?;
        sqlx::query("UPDATE enrolment_codes SET used_at = $2, used_by = $3 WHERE code_hash = $1")
            .bind(code_hash.as_slice())
            .bind(now.as_millis())
            .bind(suite.to_string())
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        let deed = Deed {
            by: &Actor::Suite(suite),
            action: Action::SuiteEnrolled,
            tenant: Some(tenant),
            suite: Some(suite),
            detail: "",
        };
        enter(&mut tx, deed, now).await?;
        tx.commit().await.map_err(failed)?;
        Ok(SuiteKey {
            key,
            suite,
            tenant,
            public_key: public_key.to_vec(),
            valid_until: None,
        })
    }

    /// The id of a key that a suite has already and that is still valid.
    pub async fn own_key(
        &self,
        suite: SuiteId,
        public_key: &[u8],
        now: Timestamp,
    ) -> Result<Option<KeyId>, StoreError> {
        sqlx::query(
            "SELECT key_id FROM suite_keys WHERE suite_id = $1 AND public_key = $2
             AND (valid_until IS NULL OR valid_until > $3)",
        )
        .bind(suite.to_string())
        .bind(public_key)
        .bind(now.as_millis())
        .fetch_optional(&self.readers)
        .await
        .map_err(|e| StoreError::Database("read a suite's key", e))?
        .map(|row| Ok(KeyId(uuid(&row, "key_id")?)))
        .transpose()
    }

    /// Gives an active suite a new key; its other keys stay valid until `previous_until`, and those that are no longer are deleted.
    pub async fn renew_key(
        &self,
        suite: SuiteId,
        public_key: &[u8],
        now: Timestamp,
        previous_until: Timestamp,
    ) -> Result<KeyId, EnrolError> {
        let failed = |e| StoreError::Database("renew a suite's key", e);
        let mut tx = self.begin().await.map_err(failed)?;
        sqlx::query("DELETE FROM suite_keys WHERE suite_id = $1 AND valid_until <= $2")
            .bind(suite.to_string())
            .bind(now.as_millis())
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        sqlx::query(
            "UPDATE suite_keys SET valid_until = $2 WHERE suite_id = $1 AND valid_until IS NULL",
        )
        .bind(suite.to_string())
        .bind(previous_until.as_millis())
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
        let key = KeyId::random();
        insert_key(&mut tx, key, suite, public_key, now).await?;
        tx.commit().await.map_err(failed)?;
        Ok(key)
    }

    /// A key of an active suite of a tenant that is not gone.
    pub async fn suite_key(&self, key: KeyId) -> Result<Option<SuiteKey>, StoreError> {
        let found = sqlx::query(
            "SELECT k.*, s.tenant_id FROM suite_keys k
             JOIN suites s ON s.suite_id = k.suite_id AND s.status = 'active'
             JOIN tenants t ON t.tenant_id = s.tenant_id AND t.status <> 'gone'
             WHERE k.key_id = $1",
        )
        .bind(key.to_string())
        .fetch_optional(&self.readers);
        timed(&self.timings.read, found)
            .await
            .map_err(|e| StoreError::Database("read a suite's key", e))?
            .map(|row| suite_key(&row))
            .transpose()
    }

    /// All suites of a tenant, or of all tenants.
    pub async fn suites(&self, tenant: Option<TenantId>) -> Result<Vec<SuiteRow>, StoreError> {
        let failed = |e| StoreError::Database("list the suites", e);
        sqlx::query(
            "SELECT suite_id, tenant_id, name, status = 'active' AS active, created_at, last_seen_at, agent_version FROM suites
             WHERE $1 IS NULL OR tenant_id = $1 ORDER BY tenant_id, name, suite_id",
        )
        .bind(tenant.map(|t| t.to_string()))
        .fetch_all(&self.readers)
        .await
        .map_err(failed)?
        .iter()
        .map(|row| {
            Ok(SuiteRow {
                id: SuiteId(uuid(row, "suite_id")?),
                tenant: TenantId(uuid(row, "tenant_id")?),
                name: row.try_get("name").map_err(failed)?,
                active: row.try_get("active").map_err(failed)?,
                created_at: Timestamp::from_millis(row.try_get("created_at").map_err(failed)?),
                last_seen_at: row
                    .try_get::<Option<i64>, _>("last_seen_at")
                    .map_err(failed)?
                    .map(Timestamp::from_millis),
                agent_version: row.try_get("agent_version").map_err(failed)?,
            })
        })
        .collect()
    }

    /// Revokes a suite for good. False when there is no such suite.
    pub async fn revoke_suite(
        &self,
        suite: SuiteId,
        by: &Actor,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let failed = |e| StoreError::Database("revoke a suite", e);
        let mut tx = self.begin().await.map_err(failed)?;
        let tenant = sqlx::query(
            "UPDATE suites SET status = 'revoked', updated_at = $2 WHERE suite_id = $1 RETURNING tenant_id",
        )
        .bind(suite.to_string())
        .bind(now.as_millis())
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed)?;
        let Some(row) = tenant else {
            return Ok(false);
        };
        let deed = Deed {
            by,
            action: Action::SuiteRevoked,
            tenant: Some(TenantId(uuid(&row, "tenant_id")?)),
            suite: Some(suite),
            detail: "",
        };
        enter(&mut tx, deed, now).await?;
        sqlx::query(BUMP_REVISION)
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        Ok(true)
    }
}

async fn insert_key(
    tx: &mut sqlx::SqliteTransaction<'_>,
    key: KeyId,
    suite: SuiteId,
    public_key: &[u8],
    now: Timestamp,
) -> Result<(), EnrolError> {
    let inserted = sqlx::query(
        "INSERT INTO suite_keys (key_id, suite_id, public_key, created_at) VALUES ($1, $2, $3, $4)",
    )
    .bind(key.to_string())
    .bind(suite.to_string())
    .bind(public_key)
    .bind(now.as_millis())
    .execute(&mut **tx)
    .await;
    match inserted {
        Ok(_) => Ok(()),
        Err(e)
            if e.as_database_error()
                .is_some_and(sqlx::error::DatabaseError::is_unique_violation) =>
        {
            Err(EnrolError::KeyInUse)
        }
        Err(e) => Err(StoreError::Database("store a suite's key", e).into()),
    }
}
