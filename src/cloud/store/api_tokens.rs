use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::audit::enter;
use super::{Action, Actor, Deed, Role, Store, StoreError};
use crate::model::Timestamp;

/// A token for the admin API, without the token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiToken {
    /// Tells it from others, also in the audit log.
    pub name: String,
    /// What who has it may do.
    pub role: Role,
    /// When it was made.
    pub created_at: Timestamp,
    /// Until when it is good.
    pub expires_at: Timestamp,
}

fn read(row: &SqliteRow) -> Result<ApiToken, StoreError> {
    let failed = |e| StoreError::Database("read the tokens of the admin API", e);
    let role: String = row.try_get("role").map_err(failed)?;
    Ok(ApiToken {
        name: row.try_get("name").map_err(failed)?,
        role: if role == Role::Operator.as_str() {
            Role::Operator
        } else {
            Role::Viewer
        },
        created_at: Timestamp::from_millis(row.try_get("created_at").map_err(failed)?),
        expires_at: Timestamp::from_millis(row.try_get("expires_at").map_err(failed)?),
    })
}

impl Store {
    /// Stores a new token by its hash; one of that name that has ended makes room. `false`: one of that name is good.
    pub async fn put_api_token(
        &self,
        token_hash: [u8; 32],
        token: &ApiToken,
        by: &Actor,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let failed = |e| StoreError::Database("save a token of the admin API", e);
        let mut tx = self.begin().await.map_err(failed)?;
        sqlx::query("DELETE FROM api_tokens WHERE name = $1 AND expires_at <= $2")
            .bind(&token.name)
            .bind(now.as_millis())
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        let put = sqlx::query(
            "INSERT INTO api_tokens (token_hash, name, role, created_at, expires_at) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (name) DO NOTHING",
        )
        .bind(token_hash.as_slice())
        .bind(&token.name)
        .bind(token.role.as_str())
        .bind(token.created_at.as_millis())
        .bind(token.expires_at.as_millis())
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
        if put.rows_affected() == 0 {
            return Ok(false);
        }
        let deed = Deed {
            by,
            action: Action::ApiTokenMade,
            tenant: None,
            suite: None,
            detail: &format!("{} as {}", token.name, token.role.as_str()),
        };
        enter(&mut tx, deed, now).await?;
        tx.commit().await.map_err(failed)?;
        Ok(true)
    }

    /// A token that is good, by its hash.
    pub async fn api_token(
        &self,
        token_hash: [u8; 32],
        now: Timestamp,
    ) -> Result<Option<ApiToken>, StoreError> {
        sqlx::query("SELECT * FROM api_tokens WHERE token_hash = $1 AND expires_at > $2")
            .bind(token_hash.as_slice())
            .bind(now.as_millis())
            .fetch_optional(&self.readers)
            .await
            .map_err(|e| StoreError::Database("look for a token of the admin API", e))?
            .as_ref()
            .map(read)
            .transpose()
    }

    /// All tokens, also those that have ended, by name.
    pub async fn api_tokens(&self) -> Result<Vec<ApiToken>, StoreError> {
        sqlx::query("SELECT * FROM api_tokens ORDER BY name")
            .fetch_all(&self.readers)
            .await
            .map_err(|e| StoreError::Database("read the tokens of the admin API", e))?
            .iter()
            .map(read)
            .collect()
    }

    /// Revokes a token for good. `false`: there is none of that name.
    pub async fn revoke_api_token(
        &self,
        name: &str,
        by: &Actor,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let failed = |e| StoreError::Database("revoke a token of the admin API", e);
        let mut tx = self.begin().await.map_err(failed)?;
        let gone = sqlx::query("DELETE FROM api_tokens WHERE name = $1")
            .bind(name)
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        if gone.rows_affected() == 0 {
            return Ok(false);
        }
        let deed = Deed {
            by,
            action: Action::ApiTokenRevoked,
            tenant: None,
            suite: None,
            detail: name,
        };
        enter(&mut tx, deed, now).await?;
        tx.commit().await.map_err(failed)?;
        Ok(true)
    }
}
