//! Data keys and refresh tokens: how they are replaced, and how they are destroyed.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::audit::enter;
use super::{Action, Actor, BUMP_REVISION, Deed, Store, StoreError, timed, uuid};
use crate::model::{TenantId, Timestamp};
use crate::park;

/// A stored refresh token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedRefreshToken {
    /// The tenant's wrapped data key, as it stood at the same moment.
    pub data_key: Vec<u8>,
    /// Grows by one with each token.
    pub generation: i64,
    /// Sealed for `generation`.
    pub sealed: Vec<u8>,
    /// Sealed for `generation - 1`; wiped within the hour.
    pub previous: Option<Vec<u8>>,
    /// Whether a try was begun and never ended.
    pub under_way: bool,
    /// Tries in a row that did not come to an end, without the one under way.
    pub interrupted: u32,
}

/// One try to renew a refresh token: the note that is stored before Microsoft is asked.
#[derive(Debug, Clone, Copy)]
pub struct Intent {
    /// Whose token.
    pub tenant: TenantId,
    /// The generation that is there now.
    pub generation: i64,
    /// Random: whoever writes the end of the try must still find it.
    pub id: [u8; 16],
    /// When the try began.
    pub at: Timestamp,
}

/// Whose a wrapped data key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A wish to connect an organisation, by its id.
    Onboarding(String),
    /// A tenant.
    Tenant,
}

/// A data key as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrappedKey {
    /// Whose it is.
    pub holder: Holder,
    /// The tenant it is bound to.
    pub tenant: TenantId,
    /// Sealed by a key-encryption key.
    pub wrapped: Vec<u8>,
}

impl WrappedKey {
    fn place(&self) -> (&'static str, String) {
        match &self.holder {
            Holder::Onboarding(id) => ("onboarding", id.clone()),
            Holder::Tenant => ("tenant", self.tenant.to_string()),
        }
    }
}

/// A data key that was wrapped anew.
#[derive(Debug)]
pub struct Rewrapped {
    /// As it was read.
    pub old: WrappedKey,
    /// As it is to be.
    pub new: Vec<u8>,
}

/// What off-boarding destroyed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Destroyed {
    /// The wrapped data keys: that of the tenant, and those of wishes to connect it.
    pub data_keys: Vec<Vec<u8>>,
    /// Refresh tokens, the one before included.
    pub refresh_tokens: u64,
    /// Enrolment codes, used ones included.
    pub codes: u64,
    /// Suites that were active until then.
    pub suites: u64,
}

fn sealed_token(row: &SqliteRow) -> Result<SealedRefreshToken, sqlx::Error> {
    let interrupted: i64 = row.try_get("interrupted")?;
    Ok(SealedRefreshToken {
        data_key: row.try_get("wrapped")?,
        generation: row.try_get("generation")?,
        sealed: row.try_get("sealed")?,
        previous: row.try_get("previous")?,
        under_way: row.try_get("under_way")?,
        interrupted: u32::try_from(interrupted).unwrap_or(u32::MAX),
    })
}

impl Store {
    /// A tenant's wrapped data key.
    pub async fn data_key(&self, id: TenantId) -> Result<Option<Vec<u8>>, StoreError> {
        sqlx::query("SELECT wrapped FROM data_keys WHERE tenant_id = $1")
            .bind(id.to_string())
            .fetch_optional(&self.readers)
            .await
            .and_then(|row| row.map(|row| row.try_get(0)).transpose())
            .map_err(|e| StoreError::Database("read a data key", e))
    }

    /// All wrapped data keys in an order of their own: so many after this one. A wish that was fulfilled has none any more.
    pub async fn data_keys(
        &self,
        after: Option<&WrappedKey>,
        limit: u32,
    ) -> Result<Vec<WrappedKey>, StoreError> {
        let failed = |e| StoreError::Database("list the data keys", e);
        let (kind, id) = after.map(WrappedKey::place).unwrap_or_default();
        sqlx::query(
            "SELECT * FROM (
                SELECT 'tenant' AS kind, tenant_id AS id, tenant_id, wrapped FROM data_keys
                UNION ALL SELECT 'onboarding', onboarding_id, tenant_id, wrapped_key FROM onboardings WHERE step <> 'completed'
             ) WHERE (kind, id) > ($1, $2) ORDER BY kind, id LIMIT $3",
        )
        .bind(kind)
        .bind(id)
        .bind(i64::from(limit))
        .fetch_all(&self.writer)
        .await
        .map_err(failed)?
        .iter()
        .map(|row| {
            Ok(WrappedKey {
                holder: match row.try_get("kind").map_err(failed)? {
                    "tenant" => Holder::Tenant,
                    _ => Holder::Onboarding(row.try_get("id").map_err(failed)?),
                },
                tenant: TenantId(uuid(row, "tenant_id")?),
                wrapped: row.try_get("wrapped").map_err(failed)?,
            })
        })
        .collect()
    }

    /// Replaces wrapped data keys in one transaction, each only if it is still as it was read. Returns how many were.
    pub async fn rewrap_data_keys(&self, batch: &[Rewrapped]) -> Result<u64, StoreError> {
        let failed = |e| StoreError::Database("wrap data keys anew", e);
        let mut tx = self.begin().await.map_err(failed)?;
        let mut replaced = 0;
        for one in batch {
            let statement = match one.old.holder {
                Holder::Tenant => {
                    "UPDATE data_keys SET wrapped = $3 WHERE tenant_id = $1 AND wrapped = $2"
                }
                Holder::Onboarding(_) => {
                    "UPDATE onboardings SET wrapped_key = $3 WHERE onboarding_id = $1 AND wrapped_key = $2"
                }
            };
            replaced += sqlx::query(statement)
                .bind(one.old.place().1)
                .bind(&one.old.wrapped)
                .bind(&one.new)
                .execute(&mut *tx)
                .await
                .map_err(failed)?
                .rows_affected();
        }
        tx.commit().await.map_err(failed)?;
        Ok(replaced)
    }

    /// A tenant's refresh token and what opens it, read by the writer so that it is the newest.
    pub async fn refresh_token(
        &self,
        id: TenantId,
    ) -> Result<Option<SealedRefreshToken>, StoreError> {
        sqlx::query(
            "SELECT wrapped, generation, sealed, previous, intent_id IS NOT NULL AS under_way, interrupted
             FROM refresh_tokens JOIN data_keys USING (tenant_id) WHERE tenant_id = $1",
        )
        .bind(id.to_string())
        .fetch_optional(&self.writer)
        .await
        .and_then(|row| row.as_ref().map(sealed_token).transpose())
        .map_err(|e| StoreError::Database("read a refresh token", e))
    }

    /// Notes a try. A note that is still there is counted as an interrupted try. Returns how many of those there are in a row by
    /// now; `None` when the token is another one already.
    pub async fn begin_refresh(&self, intent: Intent) -> Result<Option<u32>, StoreError> {
        let noted = sqlx::query(
            "UPDATE refresh_tokens SET interrupted = interrupted + (intent_id IS NOT NULL), intent_id = $3, intent_at = $4
             WHERE tenant_id = $1 AND generation = $2 RETURNING interrupted",
        )
        .bind(intent.tenant.to_string())
        .bind(intent.generation)
        .bind(intent.id.as_slice())
        .bind(intent.at.as_millis())
        .fetch_optional(&self.writer);
        let interrupted: Option<i64> = timed(&self.timings.write, noted)
            .await
            .and_then(|row| row.map(|row| row.try_get(0)).transpose())
            .map_err(|e| StoreError::Database("note that a token is being renewed", e))?;
        Ok(interrupted.map(|n| u32::try_from(n).unwrap_or(u32::MAX)))
    }

    /// The try ended without a new token, and Microsoft has given none: takes the note away.
    pub async fn end_refresh(&self, intent: Intent) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE refresh_tokens SET intent_id = NULL, intent_at = NULL WHERE tenant_id = $1 AND intent_id = $2",
        )
        .bind(intent.tenant.to_string())
        .bind(intent.id.as_slice())
        .execute(&self.writer)
        .await
        .map(drop)
        .map_err(|e| StoreError::Database("note that a renewal has ended", e))
    }

    /// Ends a try: the token of `intent.generation` is replaced by one sealed for the next. False when that one is not there any more,
    /// or the data key that has sealed the new one, because a new authorization has replaced them. Notes do not count here: where
    /// using a token revokes it, what a try brought is all there is, also when another has begun or ended with the same one meanwhile.
    pub async fn replace_refresh_token(
        &self,
        intent: Intent,
        sealed: &[u8],
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let failed = |e| StoreError::Database("save a refresh token", e);
        let mut tx = self.begin().await.map_err(failed)?;
        let replaced = sqlx::query(
            "UPDATE refresh_tokens SET previous = sealed, sealed = $3, generation = generation + 1, updated_at = $4,
                intent_id = NULL, intent_at = NULL, interrupted = 0
             WHERE tenant_id = $1 AND generation = $2 AND EXISTS (SELECT 1 FROM data_keys k
                WHERE k.tenant_id = $1 AND substr(k.wrapped, 7, 4) = substr($3, 7, 4))",
        )
        .bind(intent.tenant.to_string())
        .bind(intent.generation)
        .bind(sealed)
        .bind(now.as_millis())
        .execute(&mut *tx)
        .await
        .map_err(failed)?
        .rows_affected();
        park::here("refresh::before_commit").await;
        tx.commit().await.map_err(failed)?;
        Ok(replaced == 1)
    }

    /// Ends a try in which Microsoft gave access and no new refresh token: the one used stays, and has worked.
    pub async fn keep_refresh_token(&self, intent: Intent) -> Result<bool, StoreError> {
        sqlx::query(
            "UPDATE refresh_tokens SET previous = NULL, intent_id = NULL, intent_at = NULL, interrupted = 0
             WHERE tenant_id = $1 AND generation = $2 AND intent_id = $3",
        )
        .bind(intent.tenant.to_string())
        .bind(intent.generation)
        .bind(intent.id.as_slice())
        .execute(&self.writer)
        .await
        .map(|done| done.rows_affected() == 1)
        .map_err(|e| StoreError::Database("note that a renewal has ended", e))
    }

    /// Wipes the tokens before the current ones of all tenants whose current one was stored by then. Returns how many.
    pub async fn wipe_previous_tokens(&self, stored_by: Timestamp) -> Result<u64, StoreError> {
        sqlx::query("UPDATE refresh_tokens SET previous = NULL WHERE previous IS NOT NULL AND updated_at <= $1")
            .bind(stored_by.as_millis())
            .execute(&self.writer)
            .await
            .map(|done| done.rows_affected())
            .map_err(|e| StoreError::Database("wipe refresh tokens that are not needed any more", e))
    }

    /// Off-boards a tenant: destroys its data key and tokens, forgets its codes and revokes its suites. `None` when there is no such
    /// tenant. What was destroyed stands in the write-ahead log until [`Store::empty_log`].
    pub async fn offboard_tenant(
        &self,
        id: TenantId,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Option<Destroyed>, StoreError> {
        let failed = |e| StoreError::Database("off-board a tenant", e);
        let mut tx = self.begin().await.map_err(failed)?;
        let (tenant, id) = (id, id.to_string());
        let known = sqlx::query(
            "UPDATE tenants SET status = 'gone', updated_at = MAX($2, updated_at + 1) WHERE tenant_id = $1",
        )
        .bind(&id)
        .bind(now.as_millis())
        .execute(&mut *tx)
        .await
        .map_err(failed)?
        .rows_affected();
        if known == 0 {
            return Ok(None);
        }
        for statement in [
            "DELETE FROM connections WHERE tenant_id = $1",
            "DELETE FROM status_links WHERE tenant_id = $1",
            "DELETE FROM web_sessions WHERE tenant_id = $1",
        ] {
            sqlx::query(statement)
                .bind(&id)
                .execute(&mut *tx)
                .await
                .map_err(failed)?;
        }
        let mut data_keys = Vec::new();
        for statement in [
            "DELETE FROM data_keys WHERE tenant_id = $1 RETURNING wrapped",
            "DELETE FROM onboardings WHERE tenant_id = $1 RETURNING wrapped_key",
        ] {
            let rows = sqlx::query(statement)
                .bind(&id)
                .fetch_all(&mut *tx)
                .await
                .map_err(failed)?;
            for row in &rows {
                data_keys.push(row.try_get(0).map_err(failed)?);
            }
        }
        let tokens: Option<i64> = sqlx::query(
            "DELETE FROM refresh_tokens WHERE tenant_id = $1 RETURNING 1 + (previous IS NOT NULL)",
        )
        .bind(&id)
        .fetch_optional(&mut *tx)
        .await
        .and_then(|row| row.map(|row| row.try_get(0)).transpose())
        .map_err(failed)?;
        let codes = sqlx::query("DELETE FROM enrolment_codes WHERE tenant_id = $1")
            .bind(&id)
            .execute(&mut *tx)
            .await
            .map_err(failed)?
            .rows_affected();
        let suites = sqlx::query(
            "UPDATE suites SET status = 'revoked', updated_at = $2 WHERE tenant_id = $1 AND status = 'active'",
        )
        .bind(&id)
        .bind(now.as_millis())
        .execute(&mut *tx)
        .await
        .map_err(failed)?
        .rows_affected();
        let detail = format!("{suites} suites revoked, {codes} enrolment codes forgotten");
        let deed = Deed {
            by,
            action: Action::TenantOffboarded,
            tenant: Some(tenant),
            suite: None,
            detail: &detail,
        };
        enter(&mut tx, deed, now).await?;
        sqlx::query(BUMP_REVISION)
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        Ok(Some(Destroyed {
            data_keys,
            refresh_tokens: tokens.and_then(|n| u64::try_from(n).ok()).unwrap_or(0),
            codes,
            suites,
        }))
    }

    /// Writes the write-ahead log back and empties it, so that nothing deleted is left in it. False when somebody was reading from it.
    pub async fn empty_log(&self) -> Result<bool, StoreError> {
        sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
            .fetch_one(&self.writer)
            .await
            .and_then(|row| row.try_get::<i64, _>(0))
            .map(|busy| busy == 0)
            .map_err(|e| StoreError::Database("empty the write-ahead log", e))
    }
}
