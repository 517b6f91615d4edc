//! What an operator does to the store: connect tenants, invite and revoke suites. Works beside a running server, which notices.

use std::fmt;
use std::time::Duration;

use super::store::{Actor, ConnectionKind, NewTenant, Store, StoreError, TenantRow, TenantStatus};
use super::tokens::refresh_token_at;
use crate::clock::Clock;
use crate::microsoft::{Entra, MicrosoftError, Recovery};
use crate::model::{Cause, TenantId, Timestamp};
use crate::secret::{
    DataKey, DekId, KeyRing, SealError, Secret, data_key_id, random_bytes, random_token, sha256,
};

/// Letters of an enrolment code: no I, L, O, U, so that none is mistaken for another (Crockford's base 32).
const CODE_LETTERS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Letters in an enrolment code: 100 bits.
const CODE_LENGTH: usize = 20;

/// Letters in the number of a receipt: 60 bits.
const RECEIPT_LENGTH: usize = 12;

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
    /// The key-encryption key cannot be used.
    #[error("the organisation's key could not be sealed")]
    Key(#[from] SealError),
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
            Self::Store(_) | Self::Key(_) => None,
        }
    }
}

/// Connects a tenant. Returns its id and whether it is new.
pub async fn connect_tenant(
    store: &Store,
    keys: &KeyRing,
    entra: &Entra,
    clock: &Clock,
    by: &Actor,
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
    let (data_key, wrapped_data_key) = keys.new_data_key(id)?;
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
    let is_new = store.put_tenant(&new, by, clock.now()).await?;
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
    by: &Actor,
    tenant: TenantId,
    valid_for: Duration,
) -> Result<Option<(Secret, Timestamp)>, StoreError> {
    let code = in_letters(&random_bytes::<CODE_LENGTH>());
    let now = clock.now();
    let until = now.plus(valid_for);
    let stored = store
        .put_enrolment_code(tenant, super::rpc::code_hash(&code), by, now, until)
        .await?;
    Ok(stored.then(|| (Secret::new(code), until)))
}

/// A letter per byte, in groups of four.
fn in_letters(random: &[u8]) -> String {
    let group = |group: &[u8]| -> String {
        let letter = |b: &u8| char::from(CODE_LETTERS[usize::from(b % 32)]);
        group.iter().map(letter).collect()
    };
    random.chunks(4).map(group).collect::<Vec<_>>().join("-")
}

/// What was destroyed when a tenant was off-boarded. Its text is for the customer too: no secret and no person is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// A random number to refer to.
    pub number: String,
    /// When it was done.
    pub at: Timestamp,
    /// Whose credentials they were.
    pub tenant: TenantId,
    /// The name for people.
    pub name: String,
    /// The data keys. Without them nothing they sealed opens any more, wherever there is a copy of it.
    pub data_keys: Vec<DekId>,
    /// Refresh tokens.
    pub refresh_tokens: u64,
    /// Enrolment codes.
    pub codes: u64,
    /// Suites revoked.
    pub suites: u64,
    /// Whether the bytes are gone from the database's files as well. If not, they go with the server's next checkpoints.
    pub files_clean: bool,
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let data_keys: Vec<_> = self.data_keys.iter().map(ToString::to_string).collect();
        let data_keys = match data_keys.as_slice() {
            [] => "there were none any more".into(),
            ids => format!("{} destroyed ({})", ids.len(), ids.join(", ")),
        };
        writeln!(f, "Receipt          {}", self.number)?;
        writeln!(f, "Time             {}", self.at)?;
        writeln!(f, "Organisation     {} ({})", self.name, self.tenant)?;
        writeln!(f, "Data keys        {data_keys}")?;
        writeln!(f, "Refresh tokens   {} destroyed", self.refresh_tokens)?;
        writeln!(f, "Enrolment codes  {} forgotten", self.codes)?;
        writeln!(f, "Suites           {} revoked", self.suites)?;
        if !self.files_clean {
            writeln!(
                f,
                "The database was being read, so its log still has the sealed bytes until it is written back."
            )?;
        }
        f.write_str(
            "Still to do by the organisation: remove this application in the Entra admin center under Enterprise applications.",
        )
    }
}

/// Times the log is emptied anew while somebody reads from it; each waits for the reader for five seconds.
const TRIES_TO_EMPTY: u32 = 3;

/// Off-boards a tenant for good: destroys its data key and tokens, forgets its codes, revokes its suites, and cleans the database's
/// files of all that. A running server ends the streams and forgets what it holds in memory within seconds. `None`: no such tenant.
pub async fn offboard(
    store: &Store,
    clock: &Clock,
    by: &Actor,
    tenant: TenantId,
) -> Result<Option<Receipt>, StoreError> {
    let Some(row) = store.tenant(tenant).await? else {
        return Ok(None);
    };
    let at = clock.now();
    let Some(destroyed) = store.offboard_tenant(tenant, by, at).await? else {
        return Ok(None);
    };
    let mut files_clean = false;
    for _ in 0..TRIES_TO_EMPTY {
        files_clean = store.empty_log().await?;
        if files_clean {
            break;
        }
    }
    let receipt = Receipt {
        number: in_letters(&random_bytes::<RECEIPT_LENGTH>()),
        at,
        tenant,
        name: row.name,
        data_keys: destroyed
            .data_keys
            .iter()
            .filter_map(|wrapped| data_key_id(wrapped))
            .collect(),
        refresh_tokens: destroyed.refresh_tokens,
        codes: destroyed.codes,
        suites: destroyed.suites,
        files_clean,
    };
    tracing::info!(tenant.id = %tenant, receipt = receipt.number, "off-boarded");
    Ok(Some(receipt))
}

/// The path of a secret link to a tenant's status page, and until when it is good. `None`: there is no such tenant.
pub async fn link_to_status(
    store: &Store,
    clock: &Clock,
    by: &Actor,
    tenant: TenantId,
    valid_for: Duration,
) -> Result<Option<(Secret, Timestamp)>, StoreError> {
    let known = store.tenant(tenant).await?;
    if known.is_none_or(|t| t.status == TenantStatus::Gone) {
        return Ok(None);
    }
    let (secret, now) = (random_token(), clock.now());
    let until = now.plus(valid_for);
    store
        .put_status_link(
            sha256(secret.as_bytes()),
            tenant,
            false,
            by,
            now,
            Some(until),
        )
        .await?;
    Ok(Some((Secret::new(format!("/s/{secret}")), until)))
}

/// Why it is not clear which tenant is meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PickError {
    /// No tenant has that id.
    #[error("there is no tenant {0}; see: presence-cloud tenant list")]
    NoTenant(TenantId),
    /// No tenant has that name.
    #[error("no tenant has that name or id; see: presence-cloud tenant list")]
    Nobody,
    /// None was named.
    #[error("name the organisation, or give its id; see: presence-cloud tenant list")]
    Nothing,
    /// So many fit.
    #[error("{0} tenants have that in their name; use the id")]
    Several(usize),
}

/// The tenant an operator means: by id, or by a name or part of one that only one tenant has. `of` tells what each of them is.
pub fn pick_tenant<'a, T>(
    tenants: &'a [T],
    of: impl Fn(&T) -> (TenantId, &str),
    wanted: &str,
) -> Result<&'a T, PickError> {
    if let Ok(id) = wanted.parse::<TenantId>() {
        return tenants
            .iter()
            .find(|t| of(t).0 == id)
            .ok_or(PickError::NoTenant(id));
    }
    let wanted = wanted.trim().to_lowercase();
    if wanted.is_empty() {
        return Err(PickError::Nothing);
    }
    if let Some(exact) = tenants.iter().find(|t| of(t).1.to_lowercase() == wanted) {
        return Ok(exact);
    }
    let matching: Vec<&T> = tenants
        .iter()
        .filter(|t| of(t).1.to_lowercase().contains(&wanted))
        .collect();
    match matching.as_slice() {
        [one] => Ok(one),
        [] => Err(PickError::Nobody),
        many => Err(PickError::Several(many.len())),
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
        fn pick<'a>(rows: &'a [TenantRow], wanted: &str) -> Result<&'a TenantRow, PickError> {
            pick_tenant(rows, |t| (t.id, t.name.as_str()), wanted)
        }
        let rows = [
            row(1, "Contoso"),
            row(2, "Contoso Paris"),
            row(3, "Fabrikam"),
        ];
        assert_eq!(pick(&rows, "contoso").unwrap().id, rows[0].id);
        assert_eq!(pick(&rows, "paris").unwrap().id, rows[1].id);
        assert_eq!(pick(&rows, &rows[2].id.to_string()).unwrap().id, rows[2].id);
        assert!(matches!(pick(&rows, "conto"), Err(PickError::Several(2))));
        assert!(pick(&rows, "nobody").is_err());
        assert!(pick(&rows[..1], " ").is_err(), "nobody was named");
    }
}
