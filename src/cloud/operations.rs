//! What operators see of the tenants and do with them: one place for pages, admin API and command line.
//!
//! Invariants: what is done goes through [`Store`] together with its entry in the audit log, so a running server and one that is
//! started later do the same; nothing here holds or shows a token, a code that was not made for the caller, or a person's name.

pub mod answers;
pub mod api_tokens;
pub mod filter;
pub mod view;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use lettre::message::Mailbox;
use serde::{Deserialize, Serialize};
use url::Url;
use uuid::Uuid;

use super::admin::{self, Receipt};
use super::alerts::Alerts;
use super::mail::{MailError, Mailer};
use super::poller::TenantFigures;
use super::store::{
    Action, Actor, Addressee, AuditEntry, ConnectionKind, Deed, RefreshFacts, Store, StoreError,
    SuiteRow, TenantRow, TenantStatus,
};
use super::tenants::Tenants;
use super::tokens::chain;
use crate::clock::Clock;
use crate::microsoft::Entra;
use crate::model::{SuiteId, TenantId, Timestamp};
use crate::secret::Secret;
use view::{
    AlertLine, Coverage, CredentialLine, HealthLine, HistoryLine, Live, Overview, SuiteLine,
    TenantDetail, TenantLine, UncoveredPerson,
};

/// Most people without coverage that are shown of a tenant.
const MOST_UNCOVERED: usize = 200;

/// Most changes of the health that are shown of a tenant.
const MOST_HISTORY: u32 = 50;

/// Most entries of the audit log shown with a tenant.
const MOST_AUDIT: u32 = 20;

/// Most alerts shown with a tenant.
const MOST_ALERTS: u32 = 20;

/// Entries of the audit log read at a time for an export.
const AT_A_TIME: u32 = 1_000;

/// Why an operator's wish was not done. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// There is no such tenant.
    #[error("there is no tenant {0}")]
    NoTenant(TenantId),
    /// It is off-boarded.
    #[error("{0} was off-boarded and has no credentials any more; it can only be connected anew")]
    Gone(String),
    /// Nothing is read of it until it is resumed.
    #[error("{0} is paused; resume it first")]
    Paused(String),
    /// There is no such suite, or not of that tenant.
    #[error("there is no suite {0}")]
    NoSuite(SuiteId),
    /// There are no pages a link could lead to.
    #[error("there are no pages to link to: set [web] listen in the configuration")]
    NoPages,
    /// There is no mail server.
    #[error(
        "no mail can be sent: configure the mail server under [smtp], or make a link and send it yourself"
    )]
    NoMail,
    /// It is not an address.
    #[error("this is not an address such as it@example.com")]
    NoAddress,
    /// The mail server.
    #[error("the mail was not sent; the link was made, but nobody has it")]
    Mail(#[from] MailError),
    /// What was typed to confirm is not the tenant's name.
    #[error("to confirm, type the name of the organisation exactly: {0}")]
    NotConfirmed(String),
    /// A token of that name is good already.
    #[error("there is a token {0} already; revoke it first, or choose another name")]
    NameTaken(String),
    /// The name of a token has a form.
    #[error(
        "a token's name begins with a letter or a digit and has at most 64 letters, digits, dots, dashes and underscores"
    )]
    BadName,
    /// There is no such token.
    #[error("there is no token {0}")]
    NoToken(String),
    /// The store.
    #[error("the database cannot be used just now")]
    Store(#[from] StoreError),
}

/// A secret link.
#[derive(Debug)]
pub struct Link {
    /// The whole address.
    pub url: Secret,
    /// Until when it is good.
    pub until: Timestamp,
}

/// A one-time enrolment code.
#[derive(Debug)]
pub struct Invitation {
    /// The code.
    pub code: Secret,
    /// Until when it is good.
    pub until: Timestamp,
    /// What to type beside the suite.
    pub command: String,
    /// Where it connects.
    pub address: String,
}

/// What operators see and do.
pub struct Operations {
    store: Store,
    clock: Clock,
    entra: Option<Entra>,
    /// `None` where nothing is served: then nothing is known but what is stored.
    tenants: Option<Arc<Tenants>>,
    pages: Option<Url>,
    suites_url: Url,
    /// `None` where nothing is served.
    messenger: Option<Messenger>,
    started_at: Timestamp,
}

/// Tells people outside.
pub struct Messenger {
    /// Sends mail; `None`: no mail server is configured.
    pub mailer: Option<Mailer>,
    /// Who is told about alerts.
    pub alerts: Arc<Alerts>,
    /// Name of this service, as customers know it.
    pub service_name: Option<String>,
}

/// What came of a test message to one receiver of alerts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tested {
    /// Its name in the configuration.
    pub receiver: String,
    /// Why it did not arrive; absent when it did.
    pub problem: Option<String>,
}

impl Operations {
    /// Beside a running service, with `tenants`; else on the store alone.
    pub fn new(
        store: Store,
        clock: Clock,
        entra: Option<Entra>,
        tenants: Option<Arc<Tenants>>,
        pages: Option<Url>,
        suites_url: Url,
        messenger: Option<Messenger>,
    ) -> Arc<Self> {
        let started_at = clock.now();
        Arc::new(Self {
            store,
            clock,
            entra,
            tenants,
            pages,
            suites_url,
            messenger,
            started_at,
        })
    }

    /// The store, for what is read as it is.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Figures of all tenants that are being served.
    pub fn figures(&self) -> HashMap<TenantId, TenantFigures> {
        let served = self.tenants.as_ref().map(|t| t.all()).unwrap_or_default();
        served.iter().map(|t| (t.id(), t.figures())).collect()
    }

    /// When our own credentials end.
    pub fn credentials(&self) -> Vec<CredentialLine> {
        let now = self.clock.now();
        let facts = self.entra.as_ref().map(Entra::credentials);
        facts
            .unwrap_or_default()
            .iter()
            .map(|one| CredentialLine {
                name: one.to_string(),
                ends: one.ends,
                ending: one.ending(now).as_str().into(),
            })
            .collect()
    }

    /// Everything at one glance: tenants that need somebody come first.
    pub async fn overview(&self) -> Result<Overview, StoreError> {
        let now = self.clock.now();
        let rows = self.store.tenants().await?;
        let suites = self.store.suites(None).await?;
        let refresh = self.store.refresh_facts(None).await?;
        let alerts = self.store.alerts(None, true, u32::MAX).await?;
        let figures = self.figures();
        let mut enrolled: HashMap<TenantId, usize> = HashMap::new();
        for suite in suites.iter().filter(|s| s.active) {
            *enrolled.entry(suite.tenant).or_default() += 1;
        }
        let mut open: HashMap<TenantId, usize> = HashMap::new();
        for tenant in alerts.iter().filter_map(|alert| alert.tenant) {
            *open.entry(tenant).or_default() += 1;
        }
        let mut tenants: Vec<TenantLine> = rows
            .iter()
            .map(|row| {
                line(
                    row,
                    figures.get(&row.id),
                    enrolled.get(&row.id).copied().unwrap_or_default(),
                    refresh.get(&row.id),
                    open.get(&row.id).copied().unwrap_or_default(),
                    now,
                )
            })
            .collect();
        tenants.sort_by(|a, b| {
            let key = |t: &TenantLine| (t.attention, t.name.to_lowercase(), t.id);
            key(a).cmp(&key(b))
        });
        Ok(Overview {
            at: now,
            started_at: self.started_at,
            version: env!("CARGO_PKG_VERSION").into(),
            tenants,
            credentials: self.credentials(),
            alerts,
        })
    }

    /// One tenant with everything that may be told about it.
    pub async fn tenant(&self, id: TenantId) -> Result<Option<TenantDetail>, StoreError> {
        let Some(row) = self.store.tenant(id).await? else {
            return Ok(None);
        };
        let now = self.clock.now();
        let served = self.tenants.as_ref().map(|t| t.all()).unwrap_or_default();
        let served = served.into_iter().find(|t| t.id() == id);
        let figures = served.as_ref().map(|t| t.figures());
        let suites = self.store.suites(Some(id)).await?;
        let refresh = self.store.refresh_facts(Some(id)).await?;
        let alerts = self.store.alerts(Some(id), false, MOST_ALERTS).await?;
        let open = alerts.iter().filter(|a| a.closed_at.is_none()).count();
        let enrolled = suites.iter().filter(|s| s.active).count();
        let connection = self.store.connection(id).await?;
        let uncovered = served
            .as_ref()
            .map(|t| t.with_hub(|hub, _, _| hub.who_is_uncovered(MOST_UNCOVERED)))
            .unwrap_or_default();
        let history = self.store.history(id, MOST_HISTORY).await?;
        Ok(Some(TenantDetail {
            line: line(
                &row,
                figures.as_ref(),
                enrolled,
                refresh.get(&id),
                open,
                now,
            ),
            at: now,
            domain: connection.as_ref().map(|c| c.domain.clone()),
            authorized_at: connection.as_ref().map(|c| c.authorized_at),
            max_watched: row.max_watched,
            share_status_message: row.share_status_message,
            share_work_location: row.share_work_location,
            reasons: figures.as_ref().map(Coverage::reasons).unwrap_or_default(),
            uncovered: uncovered
                .into_iter()
                .map(|(upn, state)| UncoveredPerson::new(&upn, state))
                .collect(),
            suites: suites
                .iter()
                .map(|suite| suite_line(suite, &row.name, figures.as_ref(), now))
                .collect(),
            history: history.into_iter().map(HistoryLine::from).collect(),
            alerts,
            audit: self.store.audit(Some(id), None, MOST_AUDIT).await?,
        }))
    }

    /// All suites, of one tenant or of all.
    pub async fn suites(&self, tenant: Option<TenantId>) -> Result<Vec<SuiteLine>, StoreError> {
        let now = self.clock.now();
        let rows = self.store.tenants().await?;
        let names: HashMap<TenantId, String> = rows.into_iter().map(|t| (t.id, t.name)).collect();
        let figures = self.figures();
        let suites = self.store.suites(tenant).await?;
        Ok(suites
            .iter()
            .map(|suite| {
                let of = names.get(&suite.tenant).map_or("", String::as_str);
                suite_line(suite, of, figures.get(&suite.tenant), now)
            })
            .collect())
    }

    /// Entries of the audit log below a number, newest first.
    pub async fn audit(
        &self,
        tenant: Option<TenantId>,
        before: Option<i64>,
        most: u32,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        self.store.audit(tenant, before, most).await
    }

    /// Gives every entry of the audit log to `take`, newest first. That they were taken is entered first, so they say so themselves.
    pub async fn export<E: From<StoreError>>(
        &self,
        by: &Actor,
        tenant: Option<TenantId>,
        how: &str,
        mut take: impl FnMut(&AuditEntry) -> Result<(), E>,
    ) -> Result<(), E> {
        let deed = Deed {
            by,
            action: Action::AuditExported,
            tenant,
            suite: None,
            detail: how,
        };
        self.store.note(deed, self.now()).await?;
        let mut before = None;
        loop {
            let entries = self.audit(tenant, before, AT_A_TIME).await?;
            entries.iter().try_for_each(&mut take)?;
            before = entries.last().map(|e| e.id);
            if before.is_none() {
                return Ok(());
            }
        }
    }

    /// Alerts, open ones first, then newest first.
    pub async fn alerts(
        &self,
        tenant: Option<TenantId>,
        open_only: bool,
        most: u32,
    ) -> Result<Vec<AlertLine>, StoreError> {
        self.store.alerts(tenant, open_only, most).await
    }

    async fn known(&self, id: TenantId) -> Result<TenantRow, OperationError> {
        let row = self.store.tenant(id).await?;
        let row = row.ok_or(OperationError::NoTenant(id))?;
        if row.status == TenantStatus::Gone {
            return Err(OperationError::Gone(row.name));
        }
        Ok(row)
    }

    /// Stops reading a tenant; its suites are told.
    pub async fn pause(&self, by: &Actor, tenant: TenantId) -> Result<(), OperationError> {
        self.set_status(by, tenant, TenantStatus::Suspended).await
    }

    /// Goes on after [`Operations::pause`].
    pub async fn resume(&self, by: &Actor, tenant: TenantId) -> Result<(), OperationError> {
        self.set_status(by, tenant, TenantStatus::Active).await
    }

    async fn set_status(
        &self,
        by: &Actor,
        tenant: TenantId,
        status: TenantStatus,
    ) -> Result<(), OperationError> {
        let row = self.known(tenant).await?;
        let now = self.clock.now();
        if self
            .store
            .set_tenant_status(tenant, status, by, now)
            .await?
        {
            tracing::info!(tenant.id = %tenant, status = status.as_str(), "an operator changed a tenant");
            return Ok(());
        }
        Err(OperationError::Gone(row.name))
    }

    /// Tries a tenant's connection again at once, and reads everybody anew.
    pub async fn refresh(&self, by: &Actor, tenant: TenantId) -> Result<(), OperationError> {
        let row = self.known(tenant).await?;
        if row.status == TenantStatus::Suspended {
            return Err(OperationError::Paused(row.name));
        }
        if self
            .store
            .touch_tenant(tenant, by, self.clock.now())
            .await?
        {
            return Ok(());
        }
        Err(OperationError::Gone(row.name))
    }

    /// A secret link to the tenant's status page, where its connection can be authorized anew.
    pub async fn relink(
        &self,
        by: &Actor,
        tenant: TenantId,
        valid_for: Duration,
    ) -> Result<Link, OperationError> {
        let row = self.known(tenant).await?;
        let pages = self.pages.as_ref().ok_or(OperationError::NoPages)?;
        let link = admin::link_to_status(&self.store, &self.clock, by, tenant, valid_for).await?;
        let (path, until) = link.ok_or(OperationError::Gone(row.name))?;
        let origin = pages.origin().ascii_serialization();
        Ok(Link {
            url: Secret::new(format!("{origin}{}", path.expose())),
            until,
        })
    }

    /// Sends such a link by mail, to one address.
    pub async fn send_link(
        &self,
        by: &Actor,
        tenant: TenantId,
        to: &str,
        valid_for: Duration,
    ) -> Result<(), OperationError> {
        let messenger = self.messenger.as_ref();
        let mailer = messenger.and_then(|m| m.mailer.as_ref());
        let mailer = mailer.ok_or(OperationError::NoMail)?;
        let to: Mailbox = to.trim().parse().map_err(|_| OperationError::NoAddress)?;
        // As the customer's own page has it, and not as operators are told.
        let figures = self.figures().remove(&tenant);
        let cause = figures.and_then(|f| f.health.cause).unwrap_or_default();
        let link = self.relink(by, tenant, valid_for).await?;
        let service = messenger.and_then(|m| m.service_name.clone());
        let service = service.unwrap_or_else(|| "Presence Bridge".into());
        let told = |what: &str, is: &str| match is {
            "" => String::new(),
            is => format!("{what}: {is}\n"),
        };
        let text = format!(
            "Hello,\n\nthrough {service}, your telephone system shows who is free in Microsoft Teams. With this link you see how that \
             connection is doing, and can authorize it again:\n\n{}\n\n{}{}\nThe link is good until {}. Whoever has it can use it, so please \
             pass it on only to whom it concerns.\n",
            link.url.expose(),
            told("What is the matter", &cause.text),
            told("What to do", &cause.remedy),
            link.until.to_minute()
        );
        let subject = format!("{service}: your connection to Microsoft Teams");
        let deed = Deed {
            by,
            action: Action::LinkSent,
            tenant: Some(tenant),
            suite: None,
            // To whom is nobody's business later; where to shows a mistake.
            detail: &format!("to somebody at {}", to.email.domain()),
        };
        // Before it is on its way: what cannot be noted is not sent, and nobody who stops waiting takes the entry with him.
        self.store.note(deed, self.clock.now()).await?;
        let to = std::slice::from_ref(&to);
        Ok(mailer.send(Uuid::new_v4(), to, &subject, &text).await?)
    }

    /// Whether links can be sent by mail.
    pub fn sends_mail(&self) -> bool {
        let messenger = self.messenger.as_ref();
        messenger.is_some_and(|m| m.mailer.is_some())
    }

    /// Names of those who are told about alerts, with what they want to know at least.
    pub fn receivers(&self) -> Vec<Addressee> {
        let alerts = self.messenger.as_ref().map(|m| m.alerts.addressees());
        alerts.unwrap_or_default()
    }

    /// Messages to operators on their way just now.
    pub fn telling(&self) -> usize {
        let messenger = self.messenger.as_ref();
        messenger.map_or(0, |m| m.alerts.delivering())
    }

    /// Sends a test message to everybody who is told about alerts.
    pub async fn test_alerts(&self, by: &Actor) -> Result<Vec<Tested>, OperationError> {
        let Some(messenger) = &self.messenger else {
            return Ok(Vec::new());
        };
        let outcome = messenger.alerts.test().await.into_iter();
        let tested: Vec<Tested> = outcome
            .map(|(receiver, outcome)| Tested {
                receiver,
                problem: outcome.err().map(|e| chain(&e)),
            })
            .collect();
        let failed = tested.iter().filter(|t| t.problem.is_some()).count();
        let deed = Deed {
            by,
            action: Action::AlertsTested,
            tenant: None,
            suite: None,
            detail: &format!("{} receivers, {failed} not reached", tested.len()),
        };
        self.store.note(deed, self.clock.now()).await?;
        Ok(tested)
    }

    /// A one-time enrolment code for a suite of a tenant.
    pub async fn invite(
        &self,
        by: &Actor,
        tenant: TenantId,
        valid_for: Duration,
    ) -> Result<Invitation, OperationError> {
        let row = self.known(tenant).await?;
        let invited = admin::invite_suite(&self.store, &self.clock, by, tenant, valid_for).await?;
        let (code, until) = invited.ok_or(OperationError::Gone(row.name))?;
        let url = self.suites_url.as_str().trim_end_matches('/');
        Ok(Invitation {
            code,
            until,
            command: format!("presence-agent enroll --cloud {url} --code-file -"),
            address: url.to_owned(),
        })
    }

    /// Revokes a suite for good: its streams end within seconds. Doing it again does nothing more.
    pub async fn revoke(&self, by: &Actor, suite: SuiteId) -> Result<(), OperationError> {
        if self.store.revoke_suite(suite, by, self.clock.now()).await? {
            tracing::info!(suite.id = %suite, "an operator revoked a suite");
            return Ok(());
        }
        Err(OperationError::NoSuite(suite))
    }

    /// Off-boards a tenant for good. `typed` is what the operator typed to confirm: the tenant's name.
    pub async fn offboard(
        &self,
        by: &Actor,
        tenant: TenantId,
        typed: &str,
    ) -> Result<Receipt, OperationError> {
        let row = self.known(tenant).await?;
        if typed.trim() != row.name {
            return Err(OperationError::NotConfirmed(row.name));
        }
        let receipt = admin::offboard(&self.store, &self.clock, by, tenant).await?;
        receipt.ok_or(OperationError::Gone(row.name))
    }
}

fn line(
    row: &TenantRow,
    figures: Option<&TenantFigures>,
    suites: usize,
    refresh: Option<&RefreshFacts>,
    alerts: usize,
    now: Timestamp,
) -> TenantLine {
    let live = figures.map(|f| Live::new(f, row.connection, now));
    let health = HealthLine::of(row.status, figures);
    let mut shown = TenantLine {
        id: row.id,
        name: row.name.clone(),
        connection: row.connection.as_str().into(),
        status: row.status.as_str().into(),
        health,
        attention: view::Attention::None,
        suites,
        suites_connected: live.as_ref().map_or(0, |l| l.suites_connected),
        alerts,
        refresh_token_stored_at: refresh.map(|r| r.stored_at),
        renewals_interrupted: refresh.map_or(0, |r| r.interrupted),
        changed_at: row.updated_at,
        live,
    };
    shown.attention = view::attention(&shown, now);
    shown
}

fn suite_line(
    suite: &SuiteRow,
    of: &str,
    figures: Option<&TenantFigures>,
    now: Timestamp,
) -> SuiteLine {
    let streams = figures.map(|f| f.of_streams.as_slice()).unwrap_or_default();
    let mut streams = streams.iter().filter(|s| s.suite == suite.id).peekable();
    let connected = streams.peek().is_some();
    let mut line = SuiteLine {
        id: suite.id,
        tenant: suite.tenant,
        tenant_name: of.into(),
        name: suite.name.clone(),
        status: if suite.active { "active" } else { "revoked" }.into(),
        connected,
        enrolled_at: suite.created_at,
        last_seen_at: if connected {
            Some(now)
        } else {
            suite.last_seen_at
        },
        agent: suite.agent_version.clone(),
        streams: 0,
        watched: 0,
        over_plan: 0,
        waiting: 0,
        lag_ms: None,
    };
    for stream in streams {
        line.streams += 1;
        line.watched += stream.watched;
        line.over_plan += stream.over_plan;
        line.waiting += stream.waiting;
        line.agent = Some(stream.agent.to_string());
        let lag = stream.stalled.map_or(0, view::millis);
        line.lag_ms = Some(line.lag_ms.unwrap_or_default().max(lag));
    }
    line
}

impl Live {
    fn new(f: &TenantFigures, connection: ConnectionKind, now: Timestamp) -> Self {
        let mut suites: Vec<SuiteId> = f.of_streams.iter().map(|s| s.suite).collect();
        suites.sort_unstable();
        suites.dedup();
        Self {
            cadence_ms: f.cadence.map(view::millis),
            wanted_ms: view::millis(f.wanted),
            budget_used: f.requests_used,
            budget_allowed: f.requests_allowed,
            budget_window_s: f.window.as_secs(),
            coverage: Coverage {
                watched: f.coverage.watched,
                monitored: f.coverage.monitored,
                resolving: f.coverage.resolving,
            },
            streams: f.streams,
            suites_connected: suites.len(),
            sweeps: f.sweeps,
            changes: f.changes,
            last_read: f.last_read,
            throttled_since: f.throttled_since,
            resting_ms: f.resting.map(view::millis),
            next_call_at: f.resting.map(|rest| now.plus(rest)),
            breakers: f.breakers.into(),
            token_given_at: f.access.received_at,
            token_ends_at: f.access.expires_at,
            renewals_failed: f.access.failures,
            signs_in: connection == ConnectionKind::ServiceAccount,
        }
    }
}
