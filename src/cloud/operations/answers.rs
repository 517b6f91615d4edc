//! What the admin API answers with and the command line prints, where [`super::view`] has no value of its own for it.

use serde::{Deserialize, Serialize};

use super::Tested;
use super::view::{AlertLine, CredentialLine, SuiteLine, TenantLine};
use crate::cloud::admin::Receipt;
use crate::cloud::store::{ApiToken, AuditEntry, Role};
use crate::model::{SuiteId, TenantId, Timestamp};

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Me {
    /// Who, as in the audit log.
    pub name: String,
    /// The kind of actor: `operator` for a token, `command-line` for this machine.
    pub kind: String,
    /// What he may do.
    pub role: Role,
    /// Until when the token is good.
    pub until: Timestamp,
}

/// Tenants, by name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tenants {
    /// When it was looked.
    pub at: Timestamp,
    /// How many fit, on this page and all others.
    pub found: usize,
    /// Those of this page.
    pub tenants: Vec<TenantLine>,
    /// The cursor of the next page, which is the last tenant of this one; absent on the last page.
    pub next: Option<TenantId>,
}

/// Suites.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Suites {
    /// When it was looked.
    pub at: Timestamp,
    /// The suites.
    pub suites: Vec<SuiteLine>,
}

/// Alerts, open ones first, then newest first.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Alerts {
    /// When it was looked.
    pub at: Timestamp,
    /// The alerts.
    pub alerts: Vec<AlertLine>,
}

/// Test messages to everybody who is told about alerts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertsTested {
    /// What came of each.
    pub receivers: Vec<Tested>,
}

/// Entries of the audit log, newest first.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Audit {
    /// The entries.
    pub entries: Vec<AuditEntry>,
    /// `before` of the next page; absent on the last.
    pub next: Option<i64>,
}

/// Our own credentials at Microsoft.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Credentials {
    /// When it was looked.
    pub at: Timestamp,
    /// The credentials, never what is secret of them.
    pub credentials: Vec<CredentialLine>,
}

/// Tokens of the admin API.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ApiTokens {
    /// When it was looked.
    pub at: Timestamp,
    /// The tokens, never what is secret of them.
    pub tokens: Vec<ApiToken>,
}

/// A tenant for whom something was done. What is served follows within seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantDone {
    /// For whom.
    pub tenant: TenantId,
    /// Its name.
    pub name: String,
    /// `active` or `suspended`, as it is stored from now on.
    pub status: String,
    /// When it was done.
    pub at: Timestamp,
}

/// A suite that was revoked. Its streams end within seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuiteDone {
    /// Which.
    pub suite: SuiteId,
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub tenant: TenantId,
    /// The name of that tenant.
    pub tenant_name: String,
    /// `revoked`.
    pub status: String,
    /// When it was done.
    pub at: Timestamp,
}

/// A secret link to a tenant's status page. It is told once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkMade {
    /// Whose page.
    pub tenant: TenantId,
    /// The name of that tenant.
    pub name: String,
    /// The whole address. Who has it can authorize the connection anew, with an account of that organisation.
    pub url: String,
    /// Until when it is good.
    pub until: Timestamp,
}

/// A one-time enrolment code. It is told once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invited {
    /// For a suite of whom.
    pub tenant: TenantId,
    /// The name of that tenant.
    pub name: String,
    /// The code.
    pub code: String,
    /// Until when it is good.
    pub until: Timestamp,
    /// What to type beside the suite.
    pub command: String,
    /// Where it connects.
    pub address: String,
}

/// A token of the admin API. It is told once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenMade {
    /// The token.
    pub token: String,
    /// Tells it from others, also in the audit log.
    pub name: String,
    /// What who has it may do.
    pub role: Role,
    /// Until when it is good.
    pub expires_at: Timestamp,
}

macro_rules! tells_nothing {
    ($($name:ident),*) => {$(
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(concat!(stringify!($name), "([secret])"))
            }
        }
    )*};
}

tells_nothing!(LinkMade, Invited, TokenMade);

/// What was destroyed when a tenant was off-boarded. No secret and no person is in it: it is for the customer too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offboarded {
    /// A random number to refer to.
    pub receipt: String,
    /// When it was done.
    pub at: Timestamp,
    /// Whose credentials they were.
    pub tenant: TenantId,
    /// The name of that tenant.
    pub name: String,
    /// Ids of the data keys. Without them nothing they sealed opens any more.
    pub data_keys: Vec<String>,
    /// Refresh tokens destroyed.
    pub refresh_tokens: u64,
    /// Enrolment codes forgotten.
    pub codes: u64,
    /// Suites revoked.
    pub suites: u64,
    /// Whether the bytes are gone from the database's files as well. If not, they go when it is next written back.
    pub files_clean: bool,
    /// The whole receipt in words.
    pub text: String,
}

impl From<Receipt> for Offboarded {
    fn from(receipt: Receipt) -> Self {
        Self {
            text: receipt.to_string(),
            receipt: receipt.number,
            at: receipt.at,
            tenant: receipt.tenant,
            name: receipt.name,
            data_keys: receipt.data_keys.iter().map(ToString::to_string).collect(),
            refresh_tokens: receipt.refresh_tokens,
            codes: receipt.codes,
            suites: receipt.suites,
            files_clean: receipt.files_clean,
        }
    }
}
