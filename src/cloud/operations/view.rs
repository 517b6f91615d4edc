//! What is shown of tenants and suites: values that pages draw, the admin API sends and the command line prints.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cloud::poller::{Breakers, TenantFigures};
use crate::cloud::store::{AuditEntry, HistoryEntry, TenantStatus};
use crate::model::{CoverageState, HealthState, SuiteId, TenantId, Timestamp, Upn};

/// A refresh token that was not renewed for so long is worth a look: Microsoft ends one after 90 days.
const TOKEN_IDLE: Duration = Duration::from_hours(24 * 30);

/// Watched people are not read for so long though all seems well.
const SILENCE: Duration = Duration::from_mins(5);

/// So many of something: "1 suite", "2 suites".
pub fn count(n: u64, one: &str) -> String {
    match n {
        1 => format!("1 {one}"),
        n => format!("{n} {one}s"),
    }
}

/// Whole milliseconds.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// How much a tenant needs somebody; in the order of the overview.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Attention {
    /// Somebody has to act, or nothing is read.
    Now,
    /// Something is wrong that may pass by itself.
    Watch,
    /// Something will need somebody later.
    Soon,
    /// All is well.
    None,
    /// Nothing is read, on purpose.
    Resting,
}

impl Attention {
    /// The word for pages and programs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Now => "now",
            Self::Watch => "watch",
            Self::Soon => "soon",
            Self::None => "none",
            Self::Resting => "resting",
        }
    }
}

/// Everything at one glance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Overview {
    /// When it was looked.
    pub at: Timestamp,
    /// Since when the service runs.
    pub started_at: Timestamp,
    /// Of presence-cloud.
    pub version: String,
    /// All tenants; those that need somebody come first.
    pub tenants: Vec<TenantLine>,
    /// Our own credentials at Microsoft.
    pub credentials: Vec<CredentialLine>,
    /// Open alerts, newest first.
    pub alerts: Vec<AlertLine>,
}

/// One of our own credentials at Microsoft.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CredentialLine {
    /// Which: never the credential.
    pub name: String,
    /// When it ends, if it is known.
    pub ends: Option<Timestamp>,
    /// `far`, `soon` (30 days), `very-soon` (14 days), `now` (3 days) or `ended`.
    pub ending: String,
}

/// The health of a tenant's connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthLine {
    /// The word of the state.
    pub state: String,
    /// Since when.
    pub since: Option<Timestamp>,
    /// Why it is not connected; may be empty.
    pub cause: String,
    /// What to do and who; may be empty.
    pub remedy: String,
    /// Microsoft's code; may be empty.
    pub code: String,
    /// Under which Microsoft's support finds it; may be empty.
    pub correlation_id: String,
}

/// What the operator does about a connection that only the customer can mend, with what the customer reads to do there.
pub fn operators_step(remedy: &str) -> String {
    const STEP: &str = "Send the customer a link to the status page: presence-cloud tenant relink, or on the tenant's page.";
    match remedy {
        "" => STEP.into(),
        theirs => format!("{STEP} There the customer reads: {theirs}"),
    }
}

impl HealthLine {
    /// As known: from what is served, or else from what is stored. It speaks to the operator.
    pub fn of(status: TenantStatus, figures: Option<&TenantFigures>) -> Self {
        let stored = match status {
            TenantStatus::Active => HealthState::Pending,
            TenantStatus::Suspended => HealthState::Suspended,
            TenantStatus::Gone => HealthState::Gone,
        };
        let health = figures
            .map(|f| &f.health)
            .filter(|_| status != TenantStatus::Gone);
        let state = health.map_or(stored, |h| h.state);
        let mut cause = health.and_then(|h| h.cause.clone()).unwrap_or_default();
        if state == HealthState::Suspended {
            // Suites are told to ask the operator; this is who they ask.
            cause.text = "An operator has paused this connection.".into();
            cause.remedy =
                "Resume it when it is to be read again: on its page, or presence-cloud tenant resume."
                    .into();
        }
        let is_refused = figures.is_some_and(|f| f.refused);
        match state {
            HealthState::NeedsReauthorization | HealthState::NeedsAdministrator => {
                cause.remedy = operators_step(&cause.remedy);
            }
            HealthState::Degraded if is_refused => cause.remedy = operators_step(&cause.remedy),
            _ => {}
        }
        Self {
            state: state.as_str().into(),
            since: health.map(|h| h.since),
            cause: cause.text,
            remedy: cause.remedy,
            code: cause.code,
            correlation_id: cause.correlation_id,
        }
    }
}

/// How many watched people are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Distinct people watched.
    pub watched: usize,
    /// Of these, monitored.
    pub monitored: usize,
    /// Of these, still being looked up or read.
    pub resolving: usize,
}

impl Coverage {
    /// Neither monitored nor on the way to it.
    pub fn uncovered(self) -> usize {
        self.watched
            .saturating_sub(self.monitored)
            .saturating_sub(self.resolving)
    }

    /// Why watched people are not monitored, and how many.
    pub fn reasons(figures: &TenantFigures) -> Vec<Reason> {
        let reason = |(state, people): (&CoverageState, &usize)| Reason {
            reason: state.as_str().into(),
            text: state.detail().into(),
            people: *people,
        };
        figures.coverage.uncovered.iter().map(reason).collect()
    }
}

/// Why so many watched people are not monitored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// The word for it.
    pub reason: String,
    /// In plain words.
    pub text: String,
    /// How many.
    pub people: usize,
}

/// Somebody watched who is not monitored. The name is shortened so that it can be told from others and not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UncoveredPerson {
    /// The first letter and the domain.
    pub person: String,
    /// The word for why.
    pub reason: String,
}

impl UncoveredPerson {
    /// Without the name.
    pub fn new(upn: &Upn, state: CoverageState) -> Self {
        let (name, domain) = upn.as_str().split_once('@').unwrap_or_default();
        let first: String = name.chars().take(1).collect();
        Self {
            person: format!("{first}…@{domain}"),
            reason: state.as_str().into(),
        }
    }
}

/// Where the breakers of a tenant stand, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerWords {
    /// Reading presence.
    pub presence: String,
    /// Looking up names.
    pub lookup: String,
    /// Tokens.
    pub token: String,
}

impl From<Breakers> for BreakerWords {
    fn from(breakers: Breakers) -> Self {
        Self {
            presence: breakers.presence.as_str().into(),
            lookup: breakers.lookup.as_str().into(),
            token: breakers.token.as_str().into(),
        }
    }
}

/// What is known of a tenant while it is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// Time between two readings of everybody as it is; absent while nothing is read.
    pub cadence_ms: Option<u64>,
    /// The same as it is wanted.
    pub wanted_ms: u64,
    /// Presence requests in the last window.
    pub budget_used: u32,
    /// Presence requests allowed in a window.
    pub budget_allowed: u32,
    /// The window.
    pub budget_window_s: u64,
    /// How many watched people are read.
    pub coverage: Coverage,
    /// Open streams.
    pub streams: usize,
    /// Suites with an open stream.
    pub suites_connected: usize,
    /// Complete sweeps since the start.
    pub sweeps: u64,
    /// Values that changed since the start.
    pub changes: u64,
    /// When Microsoft last answered with presence.
    pub last_read: Option<Timestamp>,
    /// Since when Microsoft asks us to slow down.
    pub throttled_since: Option<Timestamp>,
    /// No call to Microsoft before so much time has passed.
    pub resting_ms: Option<u64>,
    /// The same as a time.
    pub next_call_at: Option<Timestamp>,
    /// Which endpoints of Microsoft may be called: `closed`, `open` or `half-open`.
    pub breakers: BreakerWords,
    /// When Microsoft gave the access token in use.
    pub token_given_at: Option<Timestamp>,
    /// When it ends.
    pub token_ends_at: Option<Timestamp>,
    /// Renewals that have failed in a row.
    pub renewals_failed: u32,
    /// Whether a service account signs in for it.
    pub signs_in: bool,
}

impl Live {
    /// Whether anybody is read just now: only then coverage says anything.
    pub fn is_read(&self, now: Timestamp) -> bool {
        let Some(cadence) = self.cadence_ms else {
            return false;
        };
        let patience = SILENCE.max(Duration::from_millis(cadence.saturating_mul(3)));
        self.last_read.is_some_and(|at| at.until(now) < patience)
    }
}

/// One tenant in the overview.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantLine {
    /// Its id.
    pub id: TenantId,
    /// Name for people.
    pub name: String,
    /// `organisation` or `service-account`.
    pub connection: String,
    /// `active`, `suspended` or `gone`.
    pub status: String,
    /// Health of its connection.
    pub health: HealthLine,
    /// How much it needs somebody.
    pub attention: Attention,
    /// Suites enrolled and not revoked.
    #[serde(rename = "suites_enrolled")]
    pub suites: usize,
    /// Of these, with an open stream.
    pub suites_connected: usize,
    /// Open alerts about it.
    #[serde(rename = "alerts_open")]
    pub alerts: usize,
    /// When its refresh token was last renewed; only service accounts have one.
    pub refresh_token_stored_at: Option<Timestamp>,
    /// Renewals in a row that were interrupted on our side.
    pub renewals_interrupted: u32,
    /// When an operator or the customer last changed it.
    pub changed_at: Timestamp,
    /// What is known while it is served.
    pub live: Option<Live>,
}

/// How much a tenant needs somebody.
pub fn attention(of: &TenantLine, now: Timestamp) -> Attention {
    let is = |state: HealthState| of.health.state == state.as_str();
    if is(HealthState::Gone) || is(HealthState::Suspended) {
        return Attention::Resting;
    }
    if is(HealthState::NeedsReauthorization) || is(HealthState::NeedsAdministrator) {
        return Attention::Now;
    }
    let live = of.live.as_ref();
    let silent = live.is_some_and(|l| {
        let read = l.last_read.is_some_and(|at| at.until(now) < SILENCE);
        l.coverage.monitored > 0 && !read
    });
    if is(HealthState::Degraded) || silent || live.is_some_and(|l| l.throttled_since.is_some()) {
        return Attention::Watch;
    }
    let idle = of
        .refresh_token_stored_at
        .is_some_and(|at| at.until(now) > TOKEN_IDLE);
    let nobody_there = of.suites > 0 && of.suites_connected == 0;
    if idle || nobody_there || of.alerts > 0 || of.renewals_interrupted > 0 {
        return Attention::Soon;
    }
    Attention::None
}

/// One suite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuiteLine {
    /// Its id.
    pub id: SuiteId,
    /// Whose it is.
    pub tenant: TenantId,
    /// The name of that tenant.
    pub tenant_name: String,
    /// Name for people.
    pub name: String,
    /// `active` or `revoked`.
    pub status: String,
    /// Whether it has an open stream.
    pub connected: bool,
    /// When it enrolled.
    pub enrolled_at: Timestamp,
    /// When it was last seen with an open stream.
    pub last_seen_at: Option<Timestamp>,
    /// What its agent says it is.
    pub agent: Option<String>,
    /// Open streams.
    pub streams: usize,
    /// People it watches, over all its streams.
    pub watched: usize,
    /// People it asks for beyond its plan.
    pub over_plan: usize,
    /// People about whom something waits for it to be taken.
    pub waiting: usize,
    /// How long it has taken nothing although something waits; absent when it is not connected.
    pub lag_ms: Option<u64>,
}

/// A change of the health of a tenant's connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryLine {
    /// When.
    pub at: Timestamp,
    /// The word of the state.
    pub state: String,
    /// Why; may be empty.
    pub cause: String,
    /// What to do; may be empty.
    pub remedy: String,
    /// Microsoft's code; may be empty.
    pub code: String,
    /// Under which Microsoft's support finds it; may be empty.
    pub correlation_id: String,
}

impl From<HistoryEntry> for HistoryLine {
    fn from(entry: HistoryEntry) -> Self {
        let cause = entry.cause.unwrap_or_default();
        Self {
            at: entry.at,
            state: entry.state,
            cause: cause.text,
            remedy: cause.remedy,
            code: cause.code,
            correlation_id: cause.correlation_id,
        }
    }
}

/// An alert.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertLine {
    /// Its id.
    pub id: uuid::Uuid,
    /// The word for what it is about.
    pub kind: String,
    /// Whose connection it is about; absent when it is about this service.
    pub tenant: Option<TenantId>,
    /// The name of that tenant.
    pub tenant_name: Option<String>,
    /// What else tells it from others of its kind; may be empty.
    pub subject: String,
    /// `notice`, `warning` or `critical`.
    pub severity: String,
    /// In one line.
    pub title: String,
    /// What happened.
    pub cause: String,
    /// What to do, and who.
    pub cure: String,
    /// When it began.
    pub raised_at: Timestamp,
    /// When it became worse.
    pub escalated_at: Option<Timestamp>,
    /// When it was over; absent while it is open.
    pub closed_at: Option<Timestamp>,
}

/// One tenant with everything that may be told about it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TenantDetail {
    /// As in the overview.
    #[serde(flatten)]
    pub line: TenantLine,
    /// When it was looked.
    pub at: Timestamp,
    /// The domain by which the customer connected.
    pub domain: Option<String>,
    /// When the connection was last authorized in the browser.
    pub authorized_at: Option<Timestamp>,
    /// Most people each suite may watch.
    pub max_watched: u32,
    /// Whether status messages are passed on.
    pub share_status_message: bool,
    /// Whether work locations are passed on.
    pub share_work_location: bool,
    /// Why watched people are not monitored, and how many.
    pub reasons: Vec<Reason>,
    /// Some of those people.
    pub uncovered: Vec<UncoveredPerson>,
    /// Its suites, revoked ones too.
    pub suites: Vec<SuiteLine>,
    /// How its health went, newest first.
    pub history: Vec<HistoryLine>,
    /// Alerts about it: open ones first, then newest first.
    pub alerts: Vec<AlertLine>,
    /// What was done to it, newest first.
    pub audit: Vec<AuditEntry>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_not_many() {
        let said = [0, 1, 2].map(|n| count(n, "suite"));
        assert_eq!(said, ["0 suites", "1 suite", "2 suites"]);
    }
}
