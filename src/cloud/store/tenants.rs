use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::audit::enter;
use super::{Action, Actor, BUMP_REVISION, Deed, Store, StoreError, timed, uuid};
use crate::model::{Epoch, TenantId, Timestamp};

/// How a tenant is connected. Design decision 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionKind {
    /// Administrator consent, application permissions, client credentials.
    Organisation,
    /// A service account's delegated permissions, refresh token.
    ServiceAccount,
}

impl ConnectionKind {
    /// The word in the database and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Organisation => "organisation",
            Self::ServiceAccount => "service-account",
        }
    }

    /// The kind a word stands for.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Organisation, Self::ServiceAccount]
            .into_iter()
            .find(|kind| kind.as_str() == word)
    }
}

/// Whether a tenant is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TenantStatus {
    /// Served.
    Active,
    /// Paused by the operator: connections are kept, nothing is read.
    Suspended,
    /// Off-boarded: its secrets are destroyed.
    Gone,
}

impl TenantStatus {
    /// The word in the database and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Gone => "gone",
        }
    }
}

/// A tenant as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantRow {
    /// Entra tenant id.
    pub id: TenantId,
    /// Name for people.
    pub name: String,
    /// How it is connected.
    pub connection: ConnectionKind,
    /// Whether it is served.
    pub status: TenantStatus,
    /// Most people each of its suites may watch.
    pub max_watched: u32,
    /// Whether status messages may be passed on.
    pub share_status_message: bool,
    /// Whether work locations may be passed on.
    pub share_work_location: bool,
    /// When it was last changed: never the same after a change. The store sets it.
    pub updated_at: Timestamp,
}

/// A tenant to add.
#[derive(Debug)]
pub struct NewTenant {
    /// What is stored in the clear.
    pub row: TenantRow,
    /// Its data key, wrapped by the key-encryption key.
    pub wrapped_data_key: Vec<u8>,
    /// Its refresh token and the generation it is sealed for; only for service accounts. The generation must be one that was
    /// never used for this tenant: a refresh still under way for an earlier authorization must not find it.
    pub sealed_refresh_token: Option<(i64, Vec<u8>)>,
}

fn tenant(row: &SqliteRow) -> Result<TenantRow, StoreError> {
    let read = |e| StoreError::Database("read a tenant", e);
    let max_watched: i64 = row.try_get("max_watched").map_err(read)?;
    Ok(TenantRow {
        id: TenantId(uuid(row, "tenant_id")?),
        name: row.try_get("name").map_err(read)?,
        connection: ConnectionKind::from_word(row.try_get("connection").map_err(read)?)
            .ok_or(StoreError::Nonsense("a kind of connection"))?,
        status: match row.try_get("status").map_err(read)? {
            "active" => TenantStatus::Active,
            "suspended" => TenantStatus::Suspended,
            "gone" => TenantStatus::Gone,
            _ => return Err(StoreError::Nonsense("a tenant's status")),
        },
        max_watched: u32::try_from(max_watched).map_err(|_| StoreError::Nonsense("a plan"))?,
        share_status_message: row.try_get("share_status_message").map_err(read)?,
        share_work_location: row.try_get("share_work_location").map_err(read)?,
        updated_at: Timestamp::from_millis(row.try_get("updated_at").map_err(read)?),
    })
}

impl Store {
    /// Adds a tenant, or connects one anew that is already there: its suites and codes stay.
    /// Returns whether it was new.
    pub async fn put_tenant(
        &self,
        new: &NewTenant,
        by: &Actor,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let failed = |e| StoreError::Database("add a tenant", e);
        let mut tx = self.begin().await.map_err(failed)?;
        let is_new = put_tenant(&mut tx, new, by, now).await?;
        tx.commit().await.map_err(failed)?;
        Ok(is_new)
    }

    /// One tenant.
    pub async fn tenant(&self, id: TenantId) -> Result<Option<TenantRow>, StoreError> {
        sqlx::query("SELECT * FROM tenants WHERE tenant_id = $1")
            .bind(id.to_string())
            .fetch_optional(&self.readers)
            .await
            .map_err(|e| StoreError::Database("read a tenant", e))?
            .map(|row| tenant(&row))
            .transpose()
    }

    /// All tenants, by name.
    pub async fn tenants(&self) -> Result<Vec<TenantRow>, StoreError> {
        sqlx::query("SELECT * FROM tenants ORDER BY name, tenant_id")
            .fetch_all(&self.readers)
            .await
            .map_err(|e| StoreError::Database("list the tenants", e))?
            .iter()
            .map(tenant)
            .collect()
    }

    /// Suspends a tenant, resumes it, or off-boards it. Returns false when there is no such tenant.
    pub async fn set_tenant_status(
        &self,
        id: TenantId,
        status: TenantStatus,
        by: &Actor,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let action = match status {
            TenantStatus::Active => Action::TenantResumed,
            TenantStatus::Suspended => Action::TenantPaused,
            TenantStatus::Gone => return Ok(self.offboard_tenant(id, by, now).await?.is_some()),
        };
        self.change_tenant(id, Some(status), action, by, now).await
    }

    /// Lets a running server try a tenant's connection again at once. Returns false when there is no such tenant or it is gone.
    pub async fn touch_tenant(
        &self,
        id: TenantId,
        by: &Actor,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.change_tenant(id, None, Action::TenantRefreshed, by, now)
            .await
    }

    /// Not of a tenant that is gone: its secrets are destroyed.
    async fn change_tenant(
        &self,
        id: TenantId,
        status: Option<TenantStatus>,
        action: Action,
        by: &Actor,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let failed = |e| StoreError::Database("change a tenant", e);
        let mut tx = self.begin().await.map_err(failed)?;
        let changed =
            sqlx::query("UPDATE tenants SET status = COALESCE($2, status), updated_at = MAX($3, updated_at + 1) WHERE tenant_id = $1 AND status <> 'gone'")
                .bind(id.to_string())
                .bind(status.map(TenantStatus::as_str))
                .bind(now.as_millis())
                .execute(&mut *tx)
                .await
                .map_err(failed)?
                .rows_affected();
        if changed == 0 {
            return Ok(false);
        }
        let deed = Deed {
            by,
            action,
            tenant: Some(id),
            suite: None,
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

    /// Begins a new run of sequences: never equal to an earlier one, whatever the clock does.
    pub async fn next_epoch(&self, id: TenantId, now: Timestamp) -> Result<Epoch, StoreError> {
        let begun = sqlx::query(
            "UPDATE tenants SET epoch = max(epoch + 1, $2) WHERE tenant_id = $1 RETURNING epoch",
        )
        .bind(id.to_string())
        .bind(now.as_millis())
        .fetch_one(&self.writer);
        let epoch: i64 = timed(&self.timings.write, begun)
            .await
            .and_then(|row| row.try_get(0))
            .map_err(|e| StoreError::Database("begin an epoch", e))?;
        Ok(Epoch(u64::try_from(epoch).unwrap_or_default()))
    }
}

/// As [`Store::put_tenant`], as a part of something larger.
pub(super) async fn put_tenant(
    tx: &mut sqlx::SqliteTransaction<'_>,
    new: &NewTenant,
    by: &Actor,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let failed = |e| StoreError::Database("add a tenant", e);
    let id = new.row.id.to_string();
    let before: Option<bool> =
        sqlx::query("SELECT status = 'gone' FROM tenants WHERE tenant_id = $1")
            .bind(&id)
            .fetch_optional(&mut **tx)
            .await
            .and_then(|row| row.map(|row| row.try_get(0)).transpose())
            .map_err(failed)?;
    sqlx::query(
        "INSERT INTO tenants (tenant_id, name, connection, status, max_watched, share_status_message, share_work_location,
                              created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8)
         ON CONFLICT (tenant_id) DO UPDATE SET name = $2, connection = $3, status = $4, max_watched = $5,
            share_status_message = $6, share_work_location = $7, updated_at = MAX($8, updated_at + 1)",
    )
    .bind(&id)
    .bind(&new.row.name)
    .bind(new.row.connection.as_str())
    .bind(new.row.status.as_str())
    .bind(i64::from(new.row.max_watched))
    .bind(new.row.share_status_message)
    .bind(new.row.share_work_location)
    .bind(now.as_millis())
    .execute(&mut **tx)
    .await
    .map_err(failed)?;
    sqlx::query(
        "INSERT INTO data_keys (tenant_id, wrapped, created_at) VALUES ($1, $2, $3)
         ON CONFLICT (tenant_id) DO UPDATE SET wrapped = $2, created_at = $3",
    )
    .bind(&id)
    .bind(&new.wrapped_data_key)
    .bind(now.as_millis())
    .execute(&mut **tx)
    .await
    .map_err(failed)?;
    sqlx::query("DELETE FROM refresh_tokens WHERE tenant_id = $1")
        .bind(&id)
        .execute(&mut **tx)
        .await
        .map_err(failed)?;
    if let Some((generation, sealed)) = &new.sealed_refresh_token {
        sqlx::query(
            "INSERT INTO refresh_tokens (tenant_id, generation, sealed, updated_at) VALUES ($1, $2, $3, $4)",
        )
        .bind(&id)
        .bind(generation)
        .bind(sealed)
        .bind(now.as_millis())
        .execute(&mut **tx)
        .await
        .map_err(failed)?;
    }
    sqlx::query(BUMP_REVISION)
        .execute(&mut **tx)
        .await
        .map_err(failed)?;
    let deed = Deed {
        by,
        action: match before {
            Some(false) => Action::TenantReconnected,
            Some(true) | None => Action::TenantConnected,
        },
        tenant: Some(new.row.id),
        suite: None,
        detail: new.row.connection.as_str(),
    };
    enter(tx, deed, now).await?;
    Ok(before.is_none())
}
