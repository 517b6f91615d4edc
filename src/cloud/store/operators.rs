use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use sqlx::Row as _;

use super::{Store, StoreError, uuid};
use crate::model::{TenantId, Timestamp};

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// See everything, do nothing.
    Viewer,
    /// See and do everything.
    Operator,
}

impl Role {
    /// The word in the database and wherever it is shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
        }
    }
}

/// A signed-in operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorSession {
    /// Who, for the audit log.
    pub operator: String,
    /// What he may do.
    pub role: Role,
    /// Hash of what let him in.
    pub proof: [u8; 32],
    /// When he signed in.
    pub created_at: Timestamp,
    /// When he last asked for something.
    pub used_at: Timestamp,
}

impl Store {
    /// The domains by which tenants were connected in the browser.
    pub async fn domains(&self) -> Result<HashMap<TenantId, String>, StoreError> {
        let failed = |e| StoreError::Database("read the domains of the tenants", e);
        sqlx::query("SELECT tenant_id, domain FROM connections")
            .fetch_all(&self.readers)
            .await
            .map_err(failed)?
            .iter()
            .map(|row| {
                let domain: String = row.try_get("domain").map_err(failed)?;
                Ok((TenantId(uuid(row, "tenant_id")?), domain.to_lowercase()))
            })
            .collect()
    }

    /// Begins a session.
    pub async fn put_operator_session(
        &self,
        session_hash: [u8; 32],
        session: &OperatorSession,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO operator_sessions (session_hash, operator, role, proof, created_at, used_at)
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(session_hash.as_slice())
        .bind(&session.operator)
        .bind(session.role.as_str())
        .bind(session.proof.as_slice())
        .bind(session.created_at.as_millis())
        .bind(session.used_at.as_millis())
        .execute(&self.writer)
        .await
        .map(drop)
        .map_err(|e| StoreError::Database("save an operator's session", e))
    }

    /// A session used after `used_since` and begun after `begun_since`.
    pub async fn operator_session(
        &self,
        session_hash: [u8; 32],
        used_since: Timestamp,
        begun_since: Timestamp,
    ) -> Result<Option<OperatorSession>, StoreError> {
        let failed = |e| StoreError::Database("look for an operator's session", e);
        let row = sqlx::query(
            "SELECT * FROM operator_sessions WHERE session_hash = $1 AND used_at > $2 AND created_at > $3",
        )
        .bind(session_hash.as_slice())
        .bind(used_since.as_millis())
        .bind(begun_since.as_millis())
        .fetch_optional(&self.readers)
        .await
        .map_err(failed)?;
        row.map(|row| {
            let role: String = row.try_get("role").map_err(failed)?;
            let proof: Vec<u8> = row.try_get("proof").map_err(failed)?;
            Ok(OperatorSession {
                operator: row.try_get("operator").map_err(failed)?,
                role: if role == Role::Operator.as_str() {
                    Role::Operator
                } else {
                    Role::Viewer
                },
                // One that does not fit opens nothing: no proof is all zeros.
                proof: proof.try_into().unwrap_or_default(),
                created_at: Timestamp::from_millis(row.try_get("created_at").map_err(failed)?),
                used_at: Timestamp::from_millis(row.try_get("used_at").map_err(failed)?),
            })
        })
        .transpose()
    }

    /// Notes that a session was used. One that has ended meanwhile stays ended.
    pub async fn note_operator_use(
        &self,
        session_hash: [u8; 32],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE operator_sessions SET used_at = max(used_at, $2) WHERE session_hash = $1",
        )
        .bind(session_hash.as_slice())
        .bind(now.as_millis())
        .execute(&self.writer)
        .await
        .map(drop)
        .map_err(|e| StoreError::Database("note the use of an operator's session", e))
    }

    /// Ends a session.
    pub async fn end_operator_session(&self, session_hash: [u8; 32]) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM operator_sessions WHERE session_hash = $1")
            .bind(session_hash.as_slice())
            .execute(&self.writer)
            .await
            .map(drop)
            .map_err(|e| StoreError::Database("end an operator's session", e))
    }

    /// Forgets sessions not used since, or begun before.
    pub async fn forget_operator_sessions(
        &self,
        used_since: Timestamp,
        begun_since: Timestamp,
    ) -> Result<u64, StoreError> {
        sqlx::query("DELETE FROM operator_sessions WHERE used_at <= $1 OR created_at <= $2")
            .bind(used_since.as_millis())
            .bind(begun_since.as_millis())
            .execute(&self.writer)
            .await
            .map(|done| done.rows_affected())
            .map_err(|e| StoreError::Database("forget operators' sessions", e))
    }
}
