use std::collections::HashMap;

use sqlx::Row as _;

use super::{Store, StoreError, uuid};
use crate::cloud::operations::view::AlertLine;
use crate::model::{Cause, Health, SuiteId, TenantId, Timestamp};

/// A change of the health of a tenant's connection, as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// When.
    pub at: Timestamp,
    /// The word of the state.
    pub state: String,
    /// Why it is not connected; `None` when it is.
    pub cause: Option<Cause>,
}

/// What may be told about a stored refresh token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefreshFacts {
    /// When Microsoft gave it. One that is not used for 90 days ends.
    pub stored_at: Timestamp,
    /// Renewals in a row that were interrupted on our side.
    pub interrupted: u32,
}

/// A suite with an open stream.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The suite.
    pub suite: SuiteId,
    /// What its agent says it is.
    pub agent: String,
}

/// So many changes of the health are kept for each tenant.
const KEPT_CHANGES: i64 = 500;

impl Store {
    /// Stores changes of the health of tenants.
    pub async fn put_history(
        &self,
        changes: &[(TenantId, Timestamp, Health)],
    ) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        let failed = |e| StoreError::Database("store how the health of a tenant went", e);
        let mut tx = self.begin().await.map_err(failed)?;
        for (tenant, at, health) in changes {
            let nothing = Cause::default();
            let cause = health.cause.as_ref().unwrap_or(&nothing);
            sqlx::query(
                "INSERT INTO health_history (tenant_id, at, state, cause, remedy, code, correlation_id)
                 VALUES ($1, $2, $3, $4, $5, $6, $7)",
            )
            .bind(tenant.to_string())
            .bind(at.as_millis())
            .bind(health.state.as_str())
            .bind(&cause.text)
            .bind(&cause.remedy)
            .bind(&cause.code)
            .bind(&cause.correlation_id)
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        }
        tx.commit().await.map_err(failed)
    }

    /// How the health of a tenant went, newest first.
    pub async fn history(
        &self,
        tenant: TenantId,
        most: u32,
    ) -> Result<Vec<HistoryEntry>, StoreError> {
        let failed = |e| StoreError::Database("read how the health of a tenant went", e);
        sqlx::query(
            "SELECT * FROM health_history WHERE tenant_id = $1 ORDER BY entry_id DESC LIMIT $2",
        )
        .bind(tenant.to_string())
        .bind(most)
        .fetch_all(&self.readers)
        .await
        .map_err(failed)?
        .iter()
        .map(|row| {
            let text: String = row.try_get("cause").map_err(failed)?;
            let cause = Cause {
                text,
                remedy: row.try_get("remedy").map_err(failed)?,
                code: row.try_get("code").map_err(failed)?,
                correlation_id: row.try_get("correlation_id").map_err(failed)?,
            };
            Ok(HistoryEntry {
                at: Timestamp::from_millis(row.try_get("at").map_err(failed)?),
                state: row.try_get("state").map_err(failed)?,
                cause: (cause != Cause::default()).then_some(cause),
            })
        })
        .collect()
    }

    /// Forgets the oldest changes of tenants with very many. Returns how many.
    pub async fn trim_history(&self) -> Result<u64, StoreError> {
        sqlx::query(
            "DELETE FROM health_history WHERE entry_id IN (
                SELECT entry_id FROM (
                    SELECT entry_id, ROW_NUMBER() OVER (PARTITION BY tenant_id ORDER BY entry_id DESC) AS nth
                    FROM health_history) WHERE nth > $1)",
        )
        .bind(KEPT_CHANGES)
        .execute(&self.writer)
        .await
        .map(|done| done.rows_affected())
        .map_err(|e| StoreError::Database("forget old changes of the health of tenants", e))
    }

    /// Notes that these suites are connected now.
    pub async fn note_seen(&self, seen: &[Seen], now: Timestamp) -> Result<(), StoreError> {
        if seen.is_empty() {
            return Ok(());
        }
        let failed = |e| StoreError::Database("note which suites are connected", e);
        let mut tx = self.begin().await.map_err(failed)?;
        for one in seen {
            sqlx::query(
                "UPDATE suites SET last_seen_at = $2, agent_version = $3 WHERE suite_id = $1",
            )
            .bind(one.suite.to_string())
            .bind(now.as_millis())
            .bind(&one.agent)
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        }
        tx.commit().await.map_err(failed)
    }

    /// What may be told about the stored refresh tokens: of one tenant, or of all that have one.
    pub async fn refresh_facts(
        &self,
        tenant: Option<TenantId>,
    ) -> Result<HashMap<TenantId, RefreshFacts>, StoreError> {
        let failed = |e| StoreError::Database("look at the refresh tokens", e);
        sqlx::query(
            "SELECT tenant_id, updated_at, interrupted FROM refresh_tokens WHERE $1 IS NULL OR tenant_id = $1",
        )
        .bind(tenant.map(|t| t.to_string()))
        .fetch_all(&self.readers)
        .await
        .map_err(failed)?
        .iter()
        .map(|row| {
            let interrupted: i64 = row.try_get("interrupted").map_err(failed)?;
            let facts = RefreshFacts {
                stored_at: Timestamp::from_millis(row.try_get("updated_at").map_err(failed)?),
                interrupted: u32::try_from(interrupted).unwrap_or(u32::MAX),
            };
            Ok((TenantId(uuid(row, "tenant_id")?), facts))
        })
        .collect()
    }

    /// Alerts: open ones first, the worst of them first, then newest first. Of one tenant or of all.
    pub async fn alerts(
        &self,
        tenant: Option<TenantId>,
        open_only: bool,
        most: u32,
    ) -> Result<Vec<AlertLine>, StoreError> {
        let failed = |e| StoreError::Database("read the alerts", e);
        sqlx::query(
            "SELECT a.*, t.name FROM alerts a LEFT JOIN tenants t USING (tenant_id)
             WHERE ($1 IS NULL OR a.tenant_id = $1) AND (a.closed_at IS NULL OR NOT $2)
             ORDER BY a.closed_at IS NOT NULL,
                CASE WHEN a.closed_at IS NOT NULL THEN 0 WHEN a.severity = 'critical' THEN 1 WHEN a.severity = 'warning' THEN 2 ELSE 3 END,
                a.raised_at DESC, a.alert_id LIMIT $3",
        )
        .bind(tenant.map(|t| t.to_string()))
        .bind(open_only)
        .bind(most)
        .fetch_all(&self.readers)
        .await
        .map_err(failed)?
        .iter()
        .map(super::alerts::line)
        .collect()
    }
}
