use super::Timestamp;

/// The health of a tenant's connection. Design decision 9.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The state.
    pub state: HealthState,
    /// Why it is not `Connected`.
    pub cause: Option<Cause>,
    /// Since when the state holds.
    pub since: Timestamp,
}

/// States of a tenant's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HealthState {
    /// Nothing read yet.
    Pending,
    /// All is well.
    Connected,
    /// Microsoft does not answer as it should; we keep trying.
    Degraded,
    /// Somebody must authorize the connection again.
    NeedsReauthorization,
    /// An administrator of the tenant must change something.
    NeedsAdministrator,
    /// Paused by the operator.
    Suspended,
    /// Off-boarded.
    Gone,
}

impl HealthState {
    /// The word for pages, logs and the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Connected => "connected",
            Self::Degraded => "degraded",
            Self::NeedsReauthorization => "needs re-authorization",
            Self::NeedsAdministrator => "needs administrator",
            Self::Suspended => "suspended",
            Self::Gone => "gone",
        }
    }
}

/// Why a connection is not well, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cause {
    /// What happened, in plain words.
    pub text: String,
    /// What to do and who, in plain words; empty when there is nothing to do.
    pub remedy: String,
    /// Microsoft's code, for example `AADSTS65001`; empty when it gave none.
    pub code: String,
    /// Under which Microsoft's support finds the request that first showed it; empty when there is none. Not for suites.
    pub correlation_id: String,
}
