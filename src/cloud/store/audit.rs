use std::fmt;

use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{Store, StoreError, optional_uuid};
use crate::model::{SuiteId, TenantId, Timestamp, UserId};

/// Who did it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// A signed-in operator or a program with a token, by name.
    Operator(String),
    /// Somebody with access to the machine and its files, by the name of his account there.
    CommandLine(String),
    /// Somebody of the customer: the account that signed in, or `None` who came by a secret link.
    Customer(Option<UserId>),
    /// A suite.
    Suite(SuiteId),
    /// This service by itself.
    Service,
}

impl Actor {
    /// The word for the kind, in the database and wherever the log is shown.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Operator(_) => "operator",
            Self::CommandLine(_) => "command-line",
            Self::Customer(_) => "customer",
            Self::Suite(_) => "suite",
            Self::Service => "service",
        }
    }

    /// Who of that kind.
    pub fn name(&self) -> String {
        match self {
            Self::Operator(name) | Self::CommandLine(name) => name.clone(),
            Self::Customer(Some(account)) => account.to_string(),
            Self::Customer(None) => "by link".into(),
            Self::Suite(suite) => suite.to_string(),
            Self::Service => String::new(),
        }
    }

    /// Who runs the command line on this machine.
    pub fn of_this_account() -> Self {
        let name = std::env::var("SUDO_USER").or_else(|_| std::env::var("USER"));
        let mut name = name.unwrap_or_default();
        name.retain(|c| c.is_ascii_graphic());
        name.truncate(64);
        if name.is_empty() {
            name = number_of_this_account().map_or_else(String::new, |uid| format!("uid-{uid}"));
        }
        Self::CommandLine(name)
    }
}

/// The account of this process where it has no name, as under cron.
fn number_of_this_account() -> Option<u32> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        std::fs::metadata("/proc/self").ok().map(|m| m.uid())
    }
    #[cfg(not(unix))]
    None
}

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        /// What was done.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Action {
            $($(#[$doc])* $name,)*
        }

        impl Action {
            /// Every action there is.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The word in the database and wherever the log is shown.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }
        }
    };
}

actions! {
    /// A tenant was connected for the first time, or after off-boarding.
    TenantConnected = "tenant.connected",
    /// A connected tenant was authorized anew.
    TenantReconnected = "tenant.reconnected",
    /// Reading was paused.
    TenantPaused = "tenant.paused",
    /// A paused tenant goes on.
    TenantResumed = "tenant.resumed",
    /// The connection was tried again at once.
    TenantRefreshed = "tenant.refreshed",
    /// The tenant's key was destroyed.
    TenantOffboarded = "tenant.offboarded",
    /// A secret link to the status page was made.
    LinkMade = "link.made",
    /// Such a link was sent by e-mail.
    LinkSent = "link.sent",
    /// An enrolment code was made.
    SuiteInvited = "suite.invited",
    /// A suite has enrolled.
    SuiteEnrolled = "suite.enrolled",
    /// A suite was revoked.
    SuiteRevoked = "suite.revoked",
    /// The key-encryption key was replaced.
    KeyRotated = "key.rotated",
    /// Earlier key-encryption keys were removed.
    KeysRetired = "key.retired",
    /// An operator signed in.
    OperatorSignedIn = "operator.signed-in",
    /// Somebody could not sign in as an operator.
    OperatorRefused = "operator.refused",
    /// A token for the admin API was made.
    ApiTokenMade = "api-token.made",
    /// A token for the admin API was revoked.
    ApiTokenRevoked = "api-token.revoked",
    /// A backup was written.
    BackupMade = "backup.made",
    /// The database was restored from a backup.
    BackupRestored = "backup.restored",
    /// A test message was sent to everybody who is told about alerts.
    AlertsTested = "alerts.tested",
    /// The audit log was exported.
    AuditExported = "audit.exported",
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Something done, to be entered together with what it changes.
#[derive(Debug)]
pub struct Deed<'a> {
    /// Who.
    pub by: &'a Actor,
    /// What.
    pub action: Action,
    /// To whom.
    pub tenant: Option<TenantId>,
    /// To which suite.
    pub suite: Option<SuiteId>,
    /// What else is to be known: no secret, no person.
    pub detail: &'a str,
}

/// An entry of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Its number; rises with every entry.
    pub id: i64,
    /// When.
    pub at: Timestamp,
    /// The kind of actor: see [`Actor::kind`].
    pub actor_kind: String,
    /// Who of that kind.
    pub actor: String,
    /// The word of an [`Action`]; may be of a later version.
    pub action: String,
    /// To whom.
    pub tenant: Option<TenantId>,
    /// To which suite.
    pub suite: Option<SuiteId>,
    /// What else is to be known.
    pub detail: String,
}

fn entry(row: &SqliteRow) -> Result<AuditEntry, StoreError> {
    let failed = |e| StoreError::Database("read the audit log", e);
    Ok(AuditEntry {
        id: row.try_get("entry_id").map_err(failed)?,
        at: Timestamp::from_millis(row.try_get("at").map_err(failed)?),
        actor_kind: row.try_get("actor_kind").map_err(failed)?,
        actor: row.try_get("actor").map_err(failed)?,
        action: row.try_get("action").map_err(failed)?,
        tenant: optional_uuid(row, "tenant_id")?.map(TenantId),
        suite: optional_uuid(row, "suite_id")?.map(SuiteId),
        detail: row.try_get("detail").map_err(failed)?,
    })
}

/// Enters a deed, as a part of what does it.
pub(super) async fn enter(
    on: &mut sqlx::SqliteConnection,
    deed: Deed<'_>,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO audit (at, actor_kind, actor, action, tenant_id, suite_id, detail) VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(now.as_millis())
    .bind(deed.by.kind())
    .bind(deed.by.name())
    .bind(deed.action.as_str())
    .bind(deed.tenant.map(|t| t.to_string()))
    .bind(deed.suite.map(|s| s.to_string()))
    .bind(deed.detail)
    .execute(on)
    .await
    .map(drop)
    .map_err(|e| StoreError::Database("enter something into the audit log", e))
}

impl Store {
    /// Enters something that changes nothing in the database.
    pub async fn note(&self, deed: Deed<'_>, now: Timestamp) -> Result<(), StoreError> {
        let mut writer = self
            .writer
            .acquire()
            .await
            .map_err(|e| StoreError::Database("enter something into the audit log", e))?;
        enter(&mut writer, deed, now).await
    }

    /// Entries with a number below `before`, newest first, of one tenant or all; at most `most`.
    pub async fn audit(
        &self,
        tenant: Option<TenantId>,
        before: Option<i64>,
        most: u32,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        sqlx::query(
            "SELECT * FROM audit WHERE ($1 IS NULL OR tenant_id = $1) AND entry_id < $2 ORDER BY entry_id DESC LIMIT $3",
        )
        .bind(tenant.map(|t| t.to_string()))
        .bind(before.unwrap_or(i64::MAX))
        .bind(most)
        .fetch_all(&self.readers)
        .await
        .map_err(|e| StoreError::Database("read the audit log", e))?
        .iter()
        .map(entry)
        .collect()
    }
}
