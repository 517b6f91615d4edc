//! Reads a tenant's watched people within Microsoft's limits: thin loops over pure parts.
//!
//! Invariants: what decides is in [`sweep`], [`budget`], [`super::health`] and [`super::hub`]; here things are only done. The
//! hub's lock is never held across an await. Nobody watching, no calls but [`Tenant::exercise`]. After a failure both loops of the
//! tenant rest until the health machine allows the next call.

pub mod budget;
pub mod sweep;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::Duration;

use budget::{Budget, Limit, cadence};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use moka::sync::Cache;
use sweep::Sweep;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::directory::LookupPace;
use super::health::{HealthMachine, Patience};
use super::hub::{CoverageCount, Known, LookupOutcome, TenantHub};
use super::keeper::{RECENT, Standing};
use super::store::{ConnectionKind, TenantRow, TenantStatus};
use super::tokens::{Held, TokenError, Tokens};
use crate::clock::Clock;
use crate::microsoft::graph::{MAX_IDS, MAX_IN_VALUES, MAX_UPNS_PER_LOOKUP};
use crate::microsoft::{Graph, MicrosoftError, Recovery};
use crate::model::{Epoch, Health, HealthState, Presence, TenantId, Timestamp, Upn, UserId};
use crate::supervise::Supervisor;

/// Presence requests of one tenant under way at the same time.
const CONCURRENT_REQUESTS: usize = 4;

/// People just found are read at once, but not more often than this.
const FIRST_READING_PAUSE: Duration = Duration::from_millis(250);

/// A tenant that nobody watches is looked at again after this time at the latest; being watched wakes it.
const ASLEEP: Duration = Duration::from_hours(1);

/// Most requests one lookup makes, with all the halving.
const MAX_LOOKUP_REQUESTS: u32 = 64;

/// Most UPNs whose account is remembered while nobody watches them, over all tenants.
const REMEMBERED_NAMES: u64 = 500_000;

/// How to read.
#[derive(Debug, Clone)]
pub struct PollSettings {
    /// Time between two readings of everybody, while the budget allows.
    pub interval: Duration,
    /// Limit on presence requests of a tenant.
    pub presence: Limit,
    /// Limit on user lookups of a tenant, in resource units.
    pub users: Limit,
    /// Limit on all requests of this application.
    pub application: Limit,
    /// People in one presence request.
    pub batch: usize,
    /// How often names are looked up again.
    pub lookup: LookupPace,
    /// When to give up and whom to tell.
    pub patience: Patience,
}

impl Default for PollSettings {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            presence: Limit::PRESENCE,
            users: Limit::USERS,
            application: Limit::APPLICATION,
            batch: MAX_IDS,
            lookup: LookupPace::default(),
            patience: Patience::default(),
        }
    }
}

/// What all tenants share: nothing but the application's own budget and a memory of names.
pub struct Shared {
    graph: Graph,
    tokens: Arc<Tokens>,
    clock: Clock,
    settings: PollSettings,
    application: Budget,
    names: Cache<(TenantId, Upn), (UserId, Timestamp)>,
}

impl Shared {
    /// For all tenants of a process.
    pub fn new(
        graph: Graph,
        tokens: Arc<Tokens>,
        clock: Clock,
        settings: PollSettings,
    ) -> Arc<Self> {
        let application = Budget::new(settings.application);
        let names = Cache::builder().max_capacity(REMEMBERED_NAMES).build();
        Arc::new(Self {
            graph,
            tokens,
            clock,
            settings,
            application,
            names,
        })
    }

    /// Forgets what is held in memory about a tenant.
    fn forget(&self, tenant: TenantId) {
        self.tokens.forget(tenant);
        let of_tenant: Vec<_> = self
            .names
            .iter()
            .filter(|(key, _)| key.0 == tenant)
            .map(|(key, _)| key)
            .collect();
        for key in of_tenant {
            self.names.invalidate(&*key);
        }
    }

    /// Forgets the tokens of tenants that are not served any more.
    pub fn forget_tokens_of_all_but(&self, is_served: impl Fn(TenantId) -> bool) {
        self.tokens.forget_all_but(is_served);
    }

    /// Whether anything is held about a tenant's tokens.
    pub fn knows_a_token(&self, tenant: TenantId) -> bool {
        self.tokens.knows(tenant)
    }

    /// How many names of a tenant are remembered.
    pub fn known_names(&self, tenant: TenantId) -> usize {
        self.names.iter().filter(|(key, _)| key.0 == tenant).count()
    }
}

struct Core {
    hub: TenantHub,
    health: HealthMachine,
    /// Microsoft gave no token when it was last asked for one.
    without_token: bool,
    /// When the connection was last exercised, and the jitter until the next time.
    exercised: Option<(Instant, f64)>,
    rng: fastrand::Rng,
    /// No call before this.
    resting_until: Option<Instant>,
    /// Time between two readings as it really is; `None` while nothing is read.
    cadence: Option<Duration>,
}

/// Figures of one tenant, for people.
#[derive(Debug, Clone)]
pub struct TenantFigures {
    /// Health of the connection.
    pub health: Health,
    /// Time between two readings as it really is.
    pub cadence: Option<Duration>,
    /// Watched people.
    pub coverage: CoverageCount,
    /// Open streams.
    pub streams: usize,
    /// Complete sweeps so far.
    pub sweeps: u64,
    /// Values that changed so far.
    pub changes: u64,
    /// Presence requests in the last window.
    pub requests_used: u32,
    /// Presence requests allowed in a window.
    pub requests_allowed: u32,
    /// The window.
    pub window: Duration,
}

/// One tenant that is being served.
pub struct Tenant {
    id: TenantId,
    row: RwLock<TenantRow>,
    /// Cancelled when the tenant is off-boarded: then the loops end.
    gone: CancellationToken,
    shared: Arc<Shared>,
    core: Mutex<Core>,
    presence: Budget,
    users: Budget,
    wake_sweep: Notify,
    wake_lookup: Notify,
    sweeps: AtomicU64,
    changes: AtomicU64,
}

/// Why a call brought nothing.
enum Trouble {
    Microsoft(MicrosoftError),
    Token(TokenError),
    /// A fresh token was refused as well.
    TokenRefused,
}

impl Trouble {
    fn recovery(&self) -> Recovery {
        match self {
            Self::Microsoft(e) => e.recovery(),
            Self::Token(e) => e.recovery(),
            Self::TokenRefused => Recovery::FreshToken { claims: None },
        }
    }
}

impl Tenant {
    /// Begins to serve a tenant: nobody is watched yet.
    pub fn start(
        row: TenantRow,
        epoch: Epoch,
        shared: Arc<Shared>,
        supervisor: &Supervisor,
        seed: u64,
    ) -> Arc<Self> {
        let now = shared.clock.now();
        let settings = &shared.settings;
        let health = HealthMachine::new(settings.patience, seed, now);
        let hub = TenantHub::new(epoch, settings.lookup, health.health().clone());
        let this = Arc::new(Self {
            id: row.id,
            presence: Budget::new(settings.presence),
            users: Budget::new(settings.users),
            core: Mutex::new(Core {
                hub,
                health,
                without_token: false,
                exercised: None,
                rng: fastrand::Rng::with_seed(seed),
                resting_until: None,
                cadence: None,
            }),
            row: RwLock::new(row),
            gone: CancellationToken::new(),
            shared,
            wake_sweep: Notify::new(),
            wake_lookup: Notify::new(),
            sweeps: AtomicU64::new(0),
            changes: AtomicU64::new(0),
        });
        this.note_status();
        let (sweeping, looking_up) = (Arc::clone(&this), Arc::clone(&this));
        this.run(supervisor, "sweeps", async move {
            sweeping.sweep_for_ever().await;
        });
        this.run(supervisor, "lookups", async move {
            looking_up.look_up_for_ever().await;
        });
        this
    }

    /// Runs a loop that has no end, until the process stops or the tenant is gone.
    fn run(
        &self,
        supervisor: &Supervisor,
        name: &'static str,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        let (stopping, gone) = (supervisor.stopping(), self.gone.clone());
        supervisor.run_once(name, async move {
            stopping
                .run_until_cancelled(gone.run_until_cancelled(work))
                .await;
        });
    }

    /// The tenant's id.
    pub fn id(&self) -> TenantId {
        self.id
    }

    /// The tenant as stored, as last read.
    pub fn row(&self) -> TenantRow {
        self.row
            .read()
            .expect("nothing panics while holding a tenant")
            .clone()
    }

    /// The operator has changed something: takes over the row and tries again at once.
    pub fn changed(&self, row: TenantRow) {
        *self
            .row
            .write()
            .expect("nothing panics while holding a tenant") = row;
        if self.row().status == TenantStatus::Gone {
            self.gone.cancel();
            self.shared.forget(self.id);
        }
        self.shared.tokens.forget(self.id);
        let now = self.shared.clock.now();
        let mut core = self.core();
        core.health.start_over(now);
        core.resting_until = None;
        core.exercised = None;
        drop(core);
        self.presence.reopen();
        self.users.reopen();
        self.note_status();
        self.wake_sweep.notify_one();
        self.wake_lookup.notify_one();
    }

    /// Does something to the people watched and the streams, quickly; then the loops look at what is to be done.
    pub fn with_hub<T>(&self, act: impl FnOnce(&mut TenantHub, Known<'_>, Timestamp) -> T) -> T {
        let now = self.shared.clock.now();
        let names = &self.shared.names;
        let known = |upn: &Upn| names.get(&(self.id, upn.clone()));
        let outcome = act(&mut self.core().hub, &known, now);
        self.wake_sweep.notify_one();
        self.wake_lookup.notify_one();
        outcome
    }

    /// What decides when the connection is exercised.
    pub fn standing(&self) -> Standing {
        let active = self.row().status == TenantStatus::Active;
        let core = self.core();
        Standing {
            active,
            exercised_at: core.exercised.map(|(at, _)| at),
            without_token: core.without_token,
            resting_until: core.resting_until.filter(|until| *until > Instant::now()),
            jitter: core.exercised.map_or(0.0, |(_, jitter)| jitter),
        }
    }

    /// Makes sure that Microsoft still gives us tokens for this tenant, though nobody may be watching. What comes of it is the
    /// tenant's health, unless that speaks of something else than tokens.
    pub async fn exercise(&self) {
        let kind = self.row().connection;
        let outcome = self.shared.tokens.exercise(self.id, kind, RECENT).await;
        let (was_without, pending) = {
            let mut core = self.core();
            let jitter = core.rng.f64();
            core.exercised = Some((Instant::now(), jitter));
            let was = std::mem::replace(&mut core.without_token, outcome.is_err());
            (was, core.health.health().state == HealthState::Pending)
        };
        // Suspended meanwhile, that is what there is to say.
        if self.row().status != TenantStatus::Active {
            return;
        }
        match outcome {
            Ok(()) if was_without || pending => {
                self.succeeded();
                self.wake_sweep.notify_one();
                self.wake_lookup.notify_one();
            }
            Ok(()) => {}
            Err(e) => self.failed(&e.recovery()),
        }
    }

    /// Figures for people.
    pub fn figures(&self) -> TenantFigures {
        let core = self.core();
        let limit = self.presence.limit();
        TenantFigures {
            health: core.health.health().clone(),
            cadence: core.cadence,
            coverage: core.hub.count(),
            streams: core.hub.streams(),
            sweeps: self.sweeps.load(Ordering::Relaxed),
            changes: self.changes.load(Ordering::Relaxed),
            requests_used: self.presence.used(),
            requests_allowed: limit.allowed(),
            window: limit.window,
        }
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.core
            .lock()
            .expect("nothing panics while holding a tenant")
    }

    /// Whether the operator lets us read, noted in the health.
    fn note_status(&self) -> bool {
        let active = self.row().status == TenantStatus::Active;
        let now = self.shared.clock.now();
        let mut core = self.core();
        if !active {
            core.health.suspended(now);
            core.cadence = None;
        }
        core.tell_status();
        active
    }

    /// When the loops may call again, if they must rest.
    fn rest(&self) -> Option<Instant> {
        self.core()
            .resting_until
            .filter(|until| *until > Instant::now())
    }

    async fn sweep_for_ever(&self) {
        let mut next_full = Instant::now();
        let mut next_first = Instant::now();
        loop {
            let now = Instant::now();
            let (watched, unread) = {
                let core = self.core();
                let wall = self.shared.clock.now();
                (core.hub.is_watched(), core.hub.to_read(wall, true))
            };
            let due = match self.rest() {
                _ if !watched || self.row().status != TenantStatus::Active => now + ASLEEP,
                Some(until) => until,
                None if !unread.is_empty() => next_first.min(next_full),
                None => next_full,
            };
            if due > now {
                tokio::select! {
                    () = tokio::time::sleep_until(due) => {}
                    () = self.wake_sweep.notified() => {}
                }
                continue;
            }
            next_first = now + FIRST_READING_PAUSE;
            if now >= next_full {
                next_full = now + self.sweep_everybody().await;
            } else {
                self.read(unread).await;
            }
        }
    }

    /// Reads everybody once. Returns the time from the start of this sweep to the start of the next.
    async fn sweep_everybody(&self) -> Duration {
        let started_at = self.shared.clock.now();
        let people = self.core().hub.to_read(started_at, false);
        let requests = people.len().div_ceil(self.shared.settings.batch);
        let every = cadence(
            self.shared.settings.interval,
            requests,
            self.presence.rate(),
        );
        if self.read(people).await {
            self.sweeps.fetch_add(1, Ordering::Relaxed);
            let now = self.shared.clock.now();
            let mut core = self.core();
            core.hub.finish_sweep(started_at, now);
            core.cadence = Some(every);
            core.tell_status();
        }
        every
    }

    /// Reads these people. True when Microsoft answered for at least some of them.
    async fn read(&self, people: Vec<UserId>) -> bool {
        if people.is_empty() {
            return false;
        }
        let mut sweep = Sweep::new(people, self.shared.settings.batch);
        let mut under_way = FuturesUnordered::new();
        let mut trouble = None;
        loop {
            while under_way.len() < CONCURRENT_REQUESTS
                && let Some(batch) = sweep.next_batch()
            {
                under_way.push(self.read_batch(batch));
            }
            let Some((batch, asked_at, outcome)) = under_way.next().await else {
                break;
            };
            match outcome {
                Ok(answer) => {
                    sweep.answered();
                    let answer = self.allowed(answer);
                    let now = self.shared.clock.now();
                    let changes = self
                        .core()
                        .hub
                        .apply_readings(&batch, answer, asked_at, now);
                    self.changes.fetch_add(changes as u64, Ordering::Relaxed);
                }
                Err(failed) if matches!(failed.recovery(), Recovery::Split) => {
                    tracing::debug!(tenant.id = %self.id, poll.batch_size = batch.len(), "a batch was refused");
                    sweep.refused(&batch);
                }
                Err(failed) => {
                    sweep.stop();
                    trouble.get_or_insert(failed.recovery());
                }
            }
        }
        let now = self.shared.clock.now();
        if !sweep.culprits().is_empty() {
            tracing::warn!(tenant.id = %self.id, people = sweep.culprits().len(), "people left out because Microsoft refuses them");
            self.core().hub.quarantine(sweep.culprits(), now);
        }
        if trouble.is_none() && sweep.only_refused() {
            trouble = Some(Recovery::Split);
        }
        match trouble {
            Some(recovery) => self.failed(&recovery),
            None => self.succeeded(),
        }
        sweep.got_an_answer()
    }

    async fn read_batch(
        &self,
        batch: Vec<UserId>,
    ) -> (
        Vec<UserId>,
        Timestamp,
        Result<HashMap<UserId, Presence>, Trouble>,
    ) {
        self.presence.spend(1).await;
        self.shared.application.spend(1).await;
        let asked_at = self.shared.clock.now();
        let (graph, people) = (&self.shared.graph, batch.as_slice());
        let ask = |held: Arc<Held>| {
            async move { graph.presences(&held.token.secret, people).await }.boxed()
        };
        let outcome = self.call(&self.presence, ask).await;
        (batch, asked_at, outcome)
    }

    async fn access(&self, kind: ConnectionKind) -> Result<Arc<Held>, Trouble> {
        let outcome = self.shared.tokens.access(self.id, kind).await;
        self.core().without_token = outcome.is_err();
        outcome.map_err(Trouble::Token)
    }

    /// Calls Microsoft with a token; with a fresh one when the first is refused.
    async fn call<'a, T>(
        &self,
        budget: &Budget,
        ask: impl Fn(Arc<Held>) -> BoxFuture<'a, Result<T, MicrosoftError>>,
    ) -> Result<T, Trouble> {
        let kind = self.row().connection;
        let held: Arc<Held> = self.access(kind).await?;
        let failed = match ask(Arc::clone(&held)).await {
            Ok(answer) => return Ok(answer),
            Err(failed) => failed,
        };
        if let Recovery::Throttled { after: Some(after) } = failed.recovery() {
            budget.close_for(after);
        }
        if !matches!(failed.recovery(), Recovery::FreshToken { .. }) {
            return Err(Trouble::Microsoft(failed));
        }
        if !self.shared.tokens.refused(self.id, &held) {
            return Err(Trouble::TokenRefused);
        }
        let fresh = self.access(kind).await?;
        budget.spend(1).await;
        self.shared.application.spend(1).await;
        ask(fresh).await.map_err(|again| match again.recovery() {
            Recovery::FreshToken { .. } => Trouble::TokenRefused,
            _ => Trouble::Microsoft(again),
        })
    }

    /// Leaves out what the tenant does not allow to be passed on.
    fn allowed(&self, mut answer: HashMap<UserId, Presence>) -> HashMap<UserId, Presence> {
        let row = self.row();
        for presence in answer.values_mut() {
            if !row.share_status_message {
                presence.status_message = None;
            }
            if !row.share_work_location {
                presence.work_location = None;
            }
        }
        answer
    }

    fn succeeded(&self) {
        let now = self.shared.clock.now();
        let mut core = self.core();
        let before = core.health.health().state;
        core.health.succeeded(now);
        core.resting_until = None;
        if before != HealthState::Connected {
            tracing::info!(tenant.id = %self.id, "connected");
        }
        core.tell_status();
    }

    fn failed(&self, recovery: &Recovery) {
        let now = self.shared.clock.now();
        let mut core = self.core();
        let before = core.health.health().state;
        let wait = core.health.failed(recovery, now);
        let until = Instant::now() + wait;
        core.resting_until = core.resting_until.max(Some(until));
        // While we are kept from reading, the cadence stays what it was: that is by what the suites judge what is stale.
        if !matches!(
            core.health.health().state,
            HealthState::Connected | HealthState::Degraded
        ) {
            core.cadence = None;
        }
        let health = core.health.health().clone();
        core.tell_status();
        drop(core);
        if matches!(recovery, Recovery::Throttled { .. }) {
            self.presence.close_for(wait);
        }
        let microsoft_code = health.cause.as_ref().map_or("", |cause| &cause.code);
        let changed = health.state != before;
        tracing::warn!(
            tenant.id = %self.id, health = health.state.as_str(), changed, microsoft.code = microsoft_code,
            wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX), "reading presence failed"
        );
    }

    async fn look_up_for_ever(&self) {
        loop {
            let wall = self.shared.clock.now();
            let now = Instant::now();
            let due = match (self.rest(), self.core().hub.next_lookup()) {
                _ if self.row().status != TenantStatus::Active => now + ASLEEP,
                (_, None) => now + ASLEEP,
                (Some(until), _) => until,
                (None, Some(due)) => now + wall.until(due),
            };
            if due > now {
                tokio::select! {
                    () = tokio::time::sleep_until(due) => {}
                    () = self.wake_lookup.notified() => {}
                }
                continue;
            }
            let upns = self.core().hub.take_lookups(wall, MAX_UPNS_PER_LOOKUP);
            self.look_up(upns).await;
        }
    }

    /// Looks up names. A group that Microsoft refuses for what is in it is halved, until the culprit stands alone.
    async fn look_up(&self, upns: Vec<Upn>) {
        let mut queue = vec![upns];
        let mut requests = 0;
        while let Some(upns) = queue.pop() {
            requests += 1;
            // A group of names in a batch costs a unit, like a request of its own. `microsoft-graph.md` §7.2.
            let cost = u32::try_from(upns.len().div_ceil(MAX_IN_VALUES)).unwrap_or(u32::MAX);
            self.users.spend(cost).await;
            self.shared.application.spend(cost).await;
            let (graph, names) = (&self.shared.graph, upns.as_slice());
            let ask = |held: Arc<Held>| {
                async move { graph.lookup(&held.token.secret, names).await }.boxed()
            };
            let answer = self.call(&self.users, ask).await;
            let now = self.shared.clock.now();
            let mut outcome = LookupOutcome::default();
            match answer {
                Ok(lookup) => {
                    self.remember(&lookup.found, now);
                    for upn in &lookup.not_found {
                        self.shared.names.invalidate(&(self.id, upn.clone()));
                    }
                    outcome.found = lookup.found;
                    outcome.not_found = lookup.not_found;
                    for (group, failed) in lookup.failed {
                        let recovery = failed.recovery();
                        if matches!(recovery, Recovery::Split)
                            && group.len() > 1
                            && requests < MAX_LOOKUP_REQUESTS
                        {
                            let (left, right) = group.split_at(group.len() / 2);
                            queue.extend([left.to_vec(), right.to_vec()]);
                        } else {
                            self.sort_failed_lookup(group, &recovery, now, &mut outcome);
                        }
                    }
                }
                Err(trouble) => {
                    self.failed(&trouble.recovery());
                    let rest = queue.drain(..).flatten();
                    outcome.failed = upns.into_iter().chain(rest).map(|upn| (upn, now)).collect();
                }
            }
            self.core().hub.apply_lookup(outcome, now);
            self.wake_sweep.notify_one();
        }
    }

    /// Remembers whose account is which, unless the tenant is gone.
    fn remember(&self, found: &[(Upn, UserId)], now: Timestamp) {
        // Held while it is done: whoever ends the tenant and forgets the names comes before or after.
        let row = self
            .row
            .read()
            .expect("nothing panics while holding a tenant");
        if row.status == TenantStatus::Gone {
            return;
        }
        for (upn, user) in found {
            let key = (self.id, upn.clone());
            self.shared.names.insert(key, (*user, now));
        }
    }

    /// A part of a batch that failed: what that means for the names in it.
    fn sort_failed_lookup(
        &self,
        group: Vec<Upn>,
        recovery: &Recovery,
        now: Timestamp,
        outcome: &mut LookupOutcome,
    ) {
        let wait = match recovery {
            // A name that Microsoft refuses by itself is the name of nobody.
            Recovery::Split if group.len() == 1 => return outcome.not_found.extend(group),
            Recovery::AskAdministrator(_) => return outcome.no_permission.extend(group),
            Recovery::Throttled { after } => {
                let wait = after.unwrap_or(Duration::from_mins(1));
                self.users.close_for(wait);
                wait
            }
            _ => Duration::from_secs(30),
        };
        tracing::warn!(tenant.id = %self.id, names = group.len(), "a part of a lookup failed");
        outcome
            .failed
            .extend(group.into_iter().map(|upn| (upn, now.plus(wait))));
    }
}

impl Core {
    fn tell_status(&mut self) {
        self.hub
            .set_status(self.health.health().clone(), self.cadence);
    }
}
