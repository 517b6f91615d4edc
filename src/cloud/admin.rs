//! What an operator does to the store: connect tenants, invite and revoke suites. Works beside a running server, which notices.

use std::time::Duration;

use super::store::{ConnectionKind, NewTenant, Store, StoreError, TenantRow, TenantStatus};
use super::tokens::refresh_token_at;
use crate::clock::Clock;
use crate::microsoft::{Entra, MicrosoftError, Recovery};
use crate::model::{Cause, TenantId, Timestamp};
use crate::secret::{DataKey, KeyEncryptionKey, Secret, random_bytes};

/// Letters of an enrolment code: no I, L, O, U, so that none is mistaken for another (Crockford's base 32).
const CODE_LETTERS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Letters in an enrolment code: 100 bits.
const CODE_LENGTH: usize = 20;

/// A tenant to connect.
#[derive(Debug)]
pub struct ConnectTenant {
    /// Domain or id, as the customer knows it.
    pub tenant: String,
    /// Name for people; the domain if empty.
    pub name: String,
    /// How to connect.
    pub credential: NewCredential,
    /// Most people each suite may watch.
    pub max_watched: u32,
    /// Whether status messages may be passed on.
    pub share_status_message: bool,
    /// Whether work locations may be passed on.
    pub share_work_location: bool,
    /// Whether to get an access token first and store nothing if there is none.
    pub verify: bool,
}

/// How a tenant is to be connected.
#[derive(Debug)]
pub enum NewCredential {
    /// With our application's own credential, by the consent of an administrator.
    Organisation,
    /// With the refresh token of a service account.
    ServiceAccount(Secret),
}

/// Why a tenant was not connected. Nothing was stored.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Microsoft does not know the tenant, or does not let us in.
    #[error("Microsoft does not let us connect this organisation")]
    Microsoft(#[source] MicrosoftError),
    /// The store failed.
    #[error("the organisation could not be stored")]
    Store(#[from] StoreError),
}

impl ConnectError {
    /// What it means in plain words, where Microsoft's answer says so.
    pub fn cause(&self) -> Option<Cause> {
        match self {
            Self::Microsoft(e) => match e.recovery() {
                Recovery::Reauthorize(cause)
                | Recovery::AskAdministrator(cause)
                | Recovery::OurFault { cause, .. } => Some(cause),
                _ => None,
            },
            Self::Store(_) => None,
        }
    }
}

/// Connects a tenant. Returns its id and whether it is new.
pub async fn connect_tenant(
    store: &Store,
    key: &KeyEncryptionKey,
    entra: &Entra,
    clock: &Clock,
    request: ConnectTenant,
) -> Result<(TenantId, bool), ConnectError> {
    let found = entra
        .discover(&request.tenant)
        .await
        .map_err(ConnectError::Microsoft)?;
    let id = found.tenant;
    let (connection, refresh_token) = match request.credential {
        NewCredential::Organisation => {
            if request.verify {
                entra.app_token(id).await.map_err(ConnectError::Microsoft)?;
            }
            (ConnectionKind::Organisation, None)
        }
        NewCredential::ServiceAccount(token) => {
            let token = if request.verify {
                let refreshed = entra
                    .refresh(id, &token)
                    .await
                    .map_err(ConnectError::Microsoft)?;
                refreshed.refresh_token.unwrap_or(token)
            } else {
                token
            };
            (ConnectionKind::ServiceAccount, Some(token))
        }
    };
    let (data_key, wrapped_data_key) = key.new_data_key(id);
    let sealed_refresh_token =
        refresh_token.map(|token| first_refresh_token(&data_key, id, &token, clock.now()));
    let name = if request.name.trim().is_empty() {
        request.tenant
    } else {
        request.name
    };
    let new = NewTenant {
        row: TenantRow {
            id,
            name,
            connection,
            status: TenantStatus::Active,
            max_watched: request.max_watched,
            share_status_message: request.share_status_message,
            share_work_location: request.share_work_location,
            updated_at: Timestamp::default(),
        },
        wrapped_data_key,
        sealed_refresh_token,
    };
    let is_new = store.put_tenant(&new, clock.now()).await?;
    Ok((id, is_new))
}

/// The first refresh token of an authorization, sealed. Its generation is the time, which no earlier authorization can have reached.
pub fn first_refresh_token(
    key: &DataKey,
    tenant: TenantId,
    token: &Secret,
    now: Timestamp,
) -> (i64, Vec<u8>) {
    let generation = now.as_millis();
    let sealed = key.seal(
        refresh_token_at(tenant, generation),
        token.expose().as_bytes(),
    );
    (generation, sealed)
}

/// A one-time enrolment code for a suite of a tenant, and until when it is good. `None`: there is no such tenant.
pub async fn invite_suite(
    store: &Store,
    clock: &Clock,
    tenant: TenantId,
    valid_for: Duration,
) -> Result<Option<(Secret, Timestamp)>, StoreError> {
    let code: String = random_bytes::<CODE_LENGTH>()
        .chunks(4)
        .map(|group| {
            group
                .iter()
                .map(|b| char::from(CODE_LETTERS[usize::from(b % 32)]))
                .collect::<String>()
        })
        .collect::<Vec<_>>()
        .join("-");
    let now = clock.now();
    let until = now.plus(valid_for);
    let stored = store
        .put_enrolment_code(tenant, super::rpc::code_hash(&code), now, until)
        .await?;
    Ok(stored.then(|| (Secret::new(code), until)))
}

/// The tenant an operator means: by id, or by a name or part of one that only one tenant has.
pub fn pick_tenant<'a>(tenants: &'a [TenantRow], wanted: &str) -> Result<&'a TenantRow, String> {
    if let Ok(id) = wanted.parse::<TenantId>() {
        return tenants
            .iter()
            .find(|t| t.id == id)
            .ok_or_else(|| format!("there is no tenant {id}; see: presence-cloud tenant list"));
    }
    let wanted = wanted.to_lowercase();
    if let Some(exact) = tenants.iter().find(|t| t.name.to_lowercase() == wanted) {
        return Ok(exact);
    }
    let matching: Vec<&TenantRow> = tenants
        .iter()
        .filter(|t| t.name.to_lowercase().contains(&wanted))
        .collect();
    match matching.as_slice() {
        [one] => Ok(one),
        [] => Err("no tenant has that name or id; see: presence-cloud tenant list".into()),
        many => Err(format!(
            "{} tenants have that in their name; use the id",
            many.len()
        )),
    }
}

/// The default of `max_watched`: a plan's cap per suite. `security-and-faults.md` §5.
pub const DEFAULT_MAX_WATCHED: u32 = 20_000;

/// How long an enrolment code is good, unless said otherwise.
pub const DEFAULT_CODE_LIFE: Duration = Duration::from_hours(7 * 24);

#[cfg(test)]
mod tests {
    use super::*;

    fn row(n: u128, name: &str) -> TenantRow {
        TenantRow {
            id: TenantId(uuid::Uuid::from_u128(n)),
            name: name.into(),
            connection: ConnectionKind::Organisation,
            status: TenantStatus::Active,
            max_watched: 1,
            share_status_message: false,
            share_work_location: false,
            updated_at: Timestamp::default(),
        }
    }

    #[test]
    fn a_tenant_is_picked_by_id_or_by_a_name_that_is_clear() {
        let rows = [
            row(1, "Contoso"),
            row(2, "Contoso Paris"),
            row(3, "Fabrikam"),
        ];
        assert_eq!(pick_tenant(&rows, "contoso").unwrap().id, rows[0].id);
        assert_eq!(pick_tenant(&rows, "paris").unwrap().id, rows[1].id);
        assert_eq!(
            pick_tenant(&rows, &rows[2].id.to_string()).unwrap().id,
            rows[2].id
        );
        assert!(
            pick_tenant(&rows, "conto")
                .unwrap_err()
                .contains("2 tenants")
        );
        assert!(pick_tenant(&rows, "nobody").is_err());
    }
}
