//! Reads a tenant's watched people within Microsoft's limits: thin loops over pure parts.
//!
//! Invariants: what decides is in [`sweep`], [`budget`], [`super::health`] and [`super::hub`]; here things are only done. The
//! hub's lock is never held across an await. Nobody watching, no calls but [`Tenant::exercise`]. After a failure both loops of the
//! tenant rest as long as its [`breaker`] is open, and one call alone decides whether they go on; trouble with looking up names,
//! unless it is about the token, opens only the breaker of the lookups. The outcome of a call that began before the operator changed the tenant is not told.

pub mod breaker;
pub mod budget;
pub mod sweep;

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::Duration;

use breaker::{Breaker, BreakerState, Pauses};
use budget::{Budget, Limit, cadence};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use moka::sync::Cache;
use sweep::{Measured, Suspects, Sweep};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::directory::LookupPace;
use super::health::{HealthMachine, Patience};
use super::hub::{CoverageCount, Known, LookupOutcome, StreamFigures, TenantHub};
use super::keeper::{RECENT, Standing};
use super::metrics::Metrics;
use super::store::{ConnectionKind, TenantRow, TenantStatus};
use super::tokens::{AccessFigures, Failure, Held, Tokens, chain};
use crate::clock::Clock;
use crate::microsoft::error::Operation;
use crate::microsoft::graph::{MAX_IDS, MAX_IN_VALUES, MAX_UPNS_PER_LOOKUP};
use crate::microsoft::{Graph, MicrosoftError, Recovery};
use crate::model::{ById, Epoch, Health, HealthState, Presence, TenantId, Timestamp, Upn, UserId};
use crate::supervise::Supervisor;

/// Presence requests of one tenant under way at the same time.
const CONCURRENT_REQUESTS: usize = 4;

/// People just found are read at once, but not more often than this.
const FIRST_READING_PAUSE: Duration = Duration::from_millis(250);

/// A tenant that nobody watches is looked at again after this time at the latest; being watched wakes it.
const ASLEEP: Duration = Duration::from_hours(1);

/// While one request finds out whether Microsoft is back, lookups look again after this time.
const WHILE_TRIED: Duration = Duration::from_secs(2);

/// Most requests one lookup makes, with all the halving.
const MAX_LOOKUP_REQUESTS: u32 = 64;

/// After a refusal of all lookups that does not pass by itself, names are asked for again after this time.
const LOOKUPS_REFUSED: Duration = Duration::from_mins(15);

/// After a refusal of a name for want of a permission, an account known already stays, and is looked up again after this time.
const NAME_REFUSED: Duration = Duration::from_hours(1);

/// Most refused names kept to be looked up at once when the tenant is changed.
const MOST_REFUSED_NAMES: usize = 100_000;

/// Most UPNs whose account is remembered while nobody watches them, over all tenants.
const REMEMBERED_NAMES: u64 = 500_000;

/// Changes of the health kept for the history until somebody takes them.
const MOST_CHANGES_KEPT: usize = 100;

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
    metrics: Arc<Metrics>,
}

impl Shared {
    /// For all tenants of a process.
    pub fn new(
        graph: Graph,
        tokens: Arc<Tokens>,
        clock: Clock,
        settings: PollSettings,
        metrics: Arc<Metrics>,
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
            metrics,
        })
    }

    /// The application's own budget: spent in the last window, and allowed in one.
    pub fn application_budget(&self) -> (u32, u32) {
        let application = &self.application;
        (application.used(), application.limit().allowed())
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
    /// For presence; open, names are not looked up either. How long, the health says.
    breaker: Breaker<Instant>,
    /// For lookups of names alone.
    lookup_breaker: Breaker<Instant>,
    lookup_pauses: Pauses,
    /// Names refused for want of a permission, since the tenant was last changed.
    refused_names: HashSet<Upn>,
    /// How often the tenant was changed.
    changes: u64,
    /// The failed renewal that the health knows of.
    told_attempt: Option<u64>,
    suspects: Suspects,
    /// How long sweeps really take.
    measured: Measured,
    /// Time between two readings as it really is; `None` while nothing is read.
    cadence: Option<Duration>,
    /// When Microsoft last answered with presence.
    last_read: Option<Timestamp>,
    /// When somebody was last watched anew while nobody was.
    watched_since: Timestamp,
    /// Since when Microsoft asks us to slow down, without an answer in between.
    throttled_since: Option<Timestamp>,
    /// How the health went since somebody last asked.
    history: VecDeque<(Timestamp, Health)>,
}

/// Where the breakers of one tenant stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Breakers {
    /// Reading presence.
    pub presence: BreakerState,
    /// Looking up names.
    pub lookup: BreakerState,
    /// Tokens.
    pub token: BreakerState,
}

impl Breakers {
    /// Each with the word for its endpoint.
    pub const fn each(self) -> [(&'static str, BreakerState); 3] {
        [
            ("presence", self.presence),
            ("lookup", self.lookup),
            ("token", self.token),
        ]
    }
}

/// Figures of one tenant, for people.
#[derive(Debug, Clone)]
pub struct TenantFigures {
    /// Health of the connection.
    pub health: Health,
    /// Microsoft has refused the connection at least once since it last worked.
    pub refused: bool,
    /// Time between two readings as it really is.
    pub cadence: Option<Duration>,
    /// Time between two readings as it is wanted.
    pub wanted: Duration,
    /// Watched people.
    pub coverage: CoverageCount,
    /// Open streams.
    pub streams: usize,
    /// The lasting ones of them.
    pub of_streams: Vec<StreamFigures>,
    /// When Microsoft last answered with presence, in this process.
    pub last_read: Option<Timestamp>,
    /// How long ago that was, or how long it has been waited for; `None` while nothing is to be read.
    pub read_age: Option<Duration>,
    /// Since when Microsoft asks us to slow down, without an answer in between.
    pub throttled_since: Option<Timestamp>,
    /// No call before this much time has passed.
    pub resting: Option<Duration>,
    /// Which endpoints may be called.
    pub breakers: Breakers,
    /// The access token in memory.
    pub access: AccessFigures,
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
    presence: Arc<Budget>,
    users: Arc<Budget>,
    /// Each further page of an answer comes out of the budgets.
    graph: Graph,
    wake_sweep: Notify,
    wake_lookup: Notify,
    sweeps: AtomicU64,
    changes: AtomicU64,
}

/// Why a call brought nothing.
enum Trouble {
    Microsoft(MicrosoftError),
    Token(Failure),
    /// A fresh token was refused as well: the one that this renewal brought.
    TokenRefused(u64),
    /// Everything was refused for what is in it.
    AllRefused,
}

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Calls {
    /// Presence, or only a token.
    Presence,
    /// Presence, and others were answered.
    SomePresence,
    /// Names.
    Lookups,
}

impl Trouble {
    /// For the log.
    fn in_words(&self) -> String {
        match self {
            Self::Microsoft(e) => chain(e),
            Self::Token(failure) => chain(&failure.error),
            Self::TokenRefused(_) => "a fresh access token is refused".into(),
            Self::AllRefused => "everything is refused".into(),
        }
    }

    fn recovery(&self) -> Recovery {
        match self {
            Self::Microsoft(e) => e.recovery(),
            Self::Token(failure) => failure.error.recovery(),
            Self::TokenRefused(_) => Recovery::FreshToken { claims: None },
            Self::AllRefused => Recovery::Split,
        }
    }

    /// Under which Microsoft finds the request.
    fn correlation_id(&self) -> Option<&str> {
        match self {
            Self::Microsoft(e) => e.correlation_id(),
            Self::Token(failure) => failure.error.correlation_id(),
            Self::TokenRefused(_) | Self::AllRefused => None,
        }
    }

    /// The id we gave the request.
    fn client_request_id(&self) -> Option<&str> {
        match self {
            Self::Microsoft(e) => e.client_request_id(),
            _ => None,
        }
    }

    /// Whether the next batch may fare better.
    fn is_of_one_batch(&self) -> bool {
        matches!(self, Self::Microsoft(e) if matches!(e.recovery(), Recovery::Retry { after: None }))
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
        let mut health = HealthMachine::new(settings.patience, seed, now);
        health.authorized(row.updated_at);
        let hub = TenantHub::new(epoch, settings.lookup, health.health().clone());
        let presence = Arc::new(Budget::new(settings.presence));
        let users = Arc::new(Budget::new(settings.users));
        let this = Arc::new(Self {
            id: row.id,
            graph: within_budgets(&shared, &presence, &users),
            presence,
            users,
            core: Mutex::new(Core {
                hub,
                health,
                without_token: false,
                exercised: None,
                rng: fastrand::Rng::with_seed(seed),
                breaker: Breaker::default(),
                lookup_breaker: Breaker::default(),
                lookup_pauses: Pauses::new(!seed),
                refused_names: HashSet::new(),
                changes: 0,
                told_attempt: None,
                suspects: Suspects::default(),
                measured: Measured::default(),
                cadence: None,
                last_read: None,
                watched_since: now,
                throttled_since: None,
                history: VecDeque::new(),
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
        let authorized_at = self.row().updated_at;
        let mut core = self.core();
        core.changes += 1;
        core.health.start_over(now);
        core.health.authorized(authorized_at);
        core.breaker.try_now(Instant::now());
        core.lookup_breaker.try_now(Instant::now());
        core.exercised = None;
        let names = std::mem::take(&mut core.refused_names);
        let due_now = LookupOutcome {
            failed: names.into_iter().map(|upn| (upn, now)).collect(),
            ..LookupOutcome::default()
        };
        core.hub.apply_lookup(due_now, now);
        drop(core);
        self.presence.reopen();
        self.users.reopen();
        self.note_status();
        self.wake_sweep.notify_one();
        self.wake_lookup.notify_one();
    }

    /// Takes in an answer of Microsoft about these people, asked for at that time; suites are told what has changed.
    pub fn take_in(&self, asked: &[UserId], answer: ById<UserId, Presence>, asked_at: Timestamp) {
        let answer = self.allowed(answer);
        let now = self.shared.clock.now();
        let (changes, tally) = {
            let mut core = self.core();
            core.last_read = Some(asked_at);
            let changes = core.hub.apply_readings(asked, answer, asked_at, now);
            (changes, core.hub.take_tally())
        };
        self.shared.metrics.read(asked.len(), changes);
        self.shared.metrics.mailboxes(tally);
        self.changes.fetch_add(changes as u64, Ordering::Relaxed);
    }

    /// Does something to the people watched and the streams, quickly; then the loops look at what is to be done.
    pub fn with_hub<T>(&self, act: impl FnOnce(&mut TenantHub, Known<'_>, Timestamp) -> T) -> T {
        let now = self.shared.clock.now();
        let names = &self.shared.names;
        let known = |upn: &Upn| names.get(&(self.id, upn.clone()));
        let (outcome, tally) = {
            let mut core = self.core();
            let was_watched = core.hub.is_watched();
            let outcome = act(&mut core.hub, &known, now);
            if !was_watched {
                core.watched_since = now;
            }
            (outcome, core.hub.take_tally())
        };
        self.shared.metrics.mailboxes(tally);
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
            resting_until: core.breaker.open_until(Instant::now()),
            jitter: core.exercised.map_or(0.0, |(_, jitter)| jitter),
        }
    }

    /// Makes sure that Microsoft still gives us tokens for this tenant, though nobody may be watching. What comes of it is the
    /// tenant's health, unless that speaks of something else than tokens.
    pub async fn exercise(&self) {
        let (kind, begun) = (self.row().connection, self.core().changes);
        let outcome = self.shared.tokens.exercise(self.id, kind, RECENT).await;
        let now = self.shared.clock.now();
        let (was_without, pending, is_read) = {
            let mut core = self.core();
            if core.changes != begun {
                // Another exercise is due for what it is now.
                return;
            }
            let jitter = core.rng.f64();
            core.exercised = Some((Instant::now(), jitter));
            let was = std::mem::replace(&mut core.without_token, outcome.is_err());
            let pending = core.health.health().state == HealthState::Pending;
            let is_read = !core.hub.to_read(now, false).is_empty();
            if outcome.is_ok() && was {
                core.breaker.try_now(Instant::now());
            }
            (was, pending, is_read)
        };
        // Suspended meanwhile, that is what there is to say.
        if self.row().status != TenantStatus::Active {
            return;
        }
        match outcome {
            Ok(()) if was_without || pending => {
                // Where presence is read, the reading says whether all is well.
                if !is_read {
                    self.succeeded(begun);
                }
                self.wake_sweep.notify_one();
                self.wake_lookup.notify_one();
            }
            Ok(()) => {}
            Err(failure) => self.failed(&Trouble::Token(failure), Calls::Presence, begun),
        }
    }

    /// Health of the connection.
    pub fn health(&self) -> Health {
        self.core().health.health().clone()
    }

    /// Figures for people.
    pub fn figures(&self) -> TenantFigures {
        let access = self.shared.tokens.figures(self.id);
        let active = self.row().status == TenantStatus::Active;
        let wall = self.shared.clock.now();
        let core = self.core();
        let waited_since = core.last_read.max(Some(core.watched_since));
        let to_be_read = active && core.hub.is_watched();
        let now = Instant::now();
        let limit = self.presence.limit();
        TenantFigures {
            health: core.health.health().clone(),
            refused: core.health.is_refused(),
            cadence: core.cadence,
            wanted: self.shared.settings.interval,
            coverage: core.hub.count(),
            streams: core.hub.streams(),
            of_streams: core.hub.stream_figures(),
            last_read: core.last_read,
            read_age: waited_since
                .filter(|_| to_be_read)
                .map(|since| since.until(wall)),
            throttled_since: core.throttled_since,
            resting: core.breaker.open_until(now).map(|until| until - now),
            breakers: Breakers {
                presence: core.breaker.state(now),
                lookup: core.lookup_breaker.state(now),
                token: access.breaker,
            },
            access,
            sweeps: self.sweeps.load(Ordering::Relaxed),
            changes: self.changes.load(Ordering::Relaxed),
            requests_used: self.presence.used(),
            requests_allowed: limit.allowed(),
            window: limit.window,
        }
    }

    /// How the health went since this was last asked for, oldest first.
    pub fn take_history(&self) -> Vec<(Timestamp, Health)> {
        self.core().history.drain(..).collect()
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
        core.tell_status(now);
        active
    }

    /// When the loops may call again, if they must rest.
    fn rest(&self) -> Option<Instant> {
        self.core().breaker.open_until(Instant::now())
    }

    async fn sweep_for_ever(&self) {
        let mut next_full = Instant::now();
        let mut next_first = Instant::now();
        // When the last sweep began, unless there was a rest since.
        let mut last = None;
        loop {
            let now = Instant::now();
            let (watched, unread) = {
                let core = self.core();
                let wall = self.shared.clock.now();
                let mut unread = core.hub.to_read(wall, true);
                unread.retain(|user| !core.suspects.contains(*user));
                (core.hub.is_watched(), unread)
            };
            let due = match self.rest() {
                _ if !watched || self.row().status != TenantStatus::Active => now + ASLEEP,
                Some(until) => until,
                None if !unread.is_empty() => next_first.min(next_full),
                None => next_full,
            };
            if due > next_full {
                last = None;
            }
            if due > now {
                tokio::select! {
                    () = tokio::time::sleep_until(due) => {}
                    () = self.wake_sweep.notified() => {}
                }
                continue;
            }
            next_first = now + FIRST_READING_PAUSE;
            if now >= next_full {
                let gap = last.map(|last| now - last);
                next_full = now + self.sweep_everybody(now, gap).await;
                last = Some(now);
            } else {
                self.read(unread).await;
            }
        }
    }

    /// Reads everybody once. Returns the time from the start of this sweep to the start of the next.
    /// `gap` is the time from the start of the last sweep to the start of this, if there was no rest between.
    async fn sweep_everybody(&self, begun: Instant, gap: Option<Duration>) -> Duration {
        let started_at = self.shared.clock.now();
        let people = self.core().hub.to_read(started_at, false);
        if people.len() == 1 {
            self.core().suspects.stand_alone();
        }
        let requests = people.len().div_ceil(self.shared.settings.batch);
        let every = cadence(
            self.shared.settings.interval,
            requests,
            self.presence.rate(),
        );
        let span = tracing::info_span!("sweep", tenant.id = %self.id, people = people.len());
        let nobody = people.is_empty();
        let answered = self.read(people).instrument(span).await;
        if !nobody {
            self.shared.metrics.sweep(answered, begun.elapsed());
        }
        if answered {
            self.sweeps.fetch_add(1, Ordering::Relaxed);
            let now = self.shared.clock.now();
            let mut core = self.core();
            let took = begun.elapsed().max(gap.unwrap_or_default());
            core.cadence = Some(core.measured.cadence(every, took));
            core.tell_status(now);
            core.hub.finish_sweep(started_at, now);
        }
        every
    }

    /// Reads these people. True when Microsoft answered for at least some of them.
    async fn read(&self, people: Vec<UserId>) -> bool {
        if people.is_empty() {
            return false;
        }
        let (begun, mut sweep) = {
            let core = self.core();
            let sweep = Sweep::apart(people, &core.suspects, self.shared.settings.batch);
            (core.changes, sweep)
        };
        let mut under_way = FuturesUnordered::new();
        let mut trouble: Option<Trouble> = None;
        // Half-open, one request goes out alone: answered, the others follow; failed, none does.
        let half_open = {
            let mut core = self.core();
            let at_first = core.breaker.at_once(Instant::now(), CONCURRENT_REQUESTS);
            let half_open = at_first < CONCURRENT_REQUESTS;
            if half_open {
                // Another one each time: the one that always fails must not keep the others from being read.
                sweep.begin_with(core.rng.usize(..));
            }
            half_open
        };
        loop {
            let alone = half_open && !sweep.got_an_answer();
            let at_once = if alone { 1 } else { CONCURRENT_REQUESTS };
            while under_way.len() < at_once
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
                    self.take_in(&batch, answer, asked_at);
                }
                Err(failed) if matches!(failed.recovery(), Recovery::Split) => {
                    tracing::debug!(tenant.id = %self.id, poll.batch_size = batch.len(), "a batch was refused");
                    let passing =
                        matches!(&failed, Trouble::Microsoft(e) if e.status() == Some(500));
                    sweep.refused(&batch, passing);
                }
                Err(failed) => {
                    if failed.is_of_one_batch() && !alone {
                        sweep.failed();
                    } else {
                        sweep.stop();
                    }
                    // What stops everything says more than what befalls one batch.
                    if trouble.as_ref().is_none_or(Trouble::is_of_one_batch) {
                        trouble = Some(failed);
                    }
                }
            }
        }
        let now = self.shared.clock.now();
        let doubted = {
            let mut core = self.core();
            let judged = core.suspects.judge(&sweep);
            if !judged.culprits.is_empty() {
                tracing::warn!(tenant.id = %self.id, people = judged.culprits.len(), "people left out because Microsoft refuses them");
                core.hub.quarantine(&judged.culprits, now);
            }
            judged.others_at_fault
        };
        if trouble.is_none() && sweep.only_refused() {
            if !doubted {
                // It is about the one who was asked for: that says nothing of the connection.
                return false;
            }
            trouble = Some(Trouble::AllRefused);
        }
        match trouble {
            Some(trouble) if trouble.is_of_one_batch() && sweep.got_an_answer() => {
                self.failed(&trouble, Calls::SomePresence, begun);
            }
            Some(trouble) => self.failed(&trouble, Calls::Presence, begun),
            None => self.succeeded(begun),
        }
        sweep.got_an_answer()
    }

    async fn read_batch(
        &self,
        batch: Vec<UserId>,
    ) -> (
        Vec<UserId>,
        Timestamp,
        Result<ById<UserId, Presence>, Trouble>,
    ) {
        self.presence.spend(1).await;
        self.shared.application.spend(1).await;
        let asked_at = self.shared.clock.now();
        let (graph, people) = (&self.graph, batch.as_slice());
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
            return Err(Trouble::TokenRefused(held.attempt));
        }
        let fresh = self.access(kind).await?;
        budget.spend(1).await;
        self.shared.application.spend(1).await;
        let attempt = fresh.attempt;
        ask(fresh).await.map_err(|again| match again.recovery() {
            Recovery::FreshToken { .. } => Trouble::TokenRefused(attempt),
            _ => Trouble::Microsoft(again),
        })
    }

    /// Leaves out what the tenant does not allow to be passed on.
    fn allowed(&self, mut answer: ById<UserId, Presence>) -> ById<UserId, Presence> {
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

    /// What was asked for came. `begun` is how often the tenant had been changed before it was asked for.
    fn succeeded(&self, begun: u64) {
        let now = self.shared.clock.now();
        let warning = self.shared.tokens.warning(self.id);
        let mut core = self.core();
        if core.changes != begun {
            return;
        }
        let before = core.health.health().state;
        match warning {
            Some(failure) => core.health.warned(&failure.error.recovery(), now),
            None => core.health.succeeded(now),
        }
        core.breaker.succeeded();
        core.throttled_since = None;
        let state = core.health.health().state;
        if before != state {
            if state == HealthState::Connected {
                tracing::info!(tenant.id = %self.id, "connected");
            } else {
                tracing::warn!(
                    tenant.id = %self.id, health = state.as_str(),
                    "the access works until it ends, but cannot be renewed"
                );
            }
        }
        core.tell_status(now);
    }

    /// A call brought nothing: what that means for the health, and who rests for how long.
    fn failed(&self, trouble: &Trouble, calls: Calls, begun: u64) {
        let now = self.shared.clock.now();
        let kind = self.row().connection;
        let mut core = self.core();
        if core.changes != begun {
            return;
        }
        let before = core.health.health().state;
        let wait = match trouble {
            Trouble::Token(failure) => {
                let left = now.until(failure.not_before);
                if core.told_attempt.replace(failure.attempt) == Some(failure.attempt) {
                    // Somebody else was told of the same renewal: it has failed once, not twice.
                    core.rest(left);
                    return;
                }
                let recovery = match failure.error.recovery() {
                    // Without a token nothing is read until the next try.
                    Recovery::Retry { after: None } => Recovery::Retry { after: Some(left) },
                    other => other,
                };
                let passing = failure.error.passing_cause();
                core.health.failed_for(&recovery, passing, now).max(left)
            }
            Trouble::TokenRefused(renewal) => {
                let signs_in = kind == ConnectionKind::ServiceAccount;
                core.health.fresh_token_refused(*renewal, signs_in, now)
            }
            Trouble::Microsoft(e) => core
                .health
                .failed_for(&e.recovery(), e.passing_cause(), now),
            Trouble::AllRefused => core.health.failed(&trouble.recovery(), now),
        };
        if let Some(id) = trouble.correlation_id() {
            core.health.correlate(id);
        }
        if matches!(trouble.recovery(), Recovery::Throttled { .. }) {
            core.throttled_since.get_or_insert(now);
        }
        match (calls, trouble) {
            // The others are read at their pace, and the failed ones with them.
            (Calls::SomePresence, _) => core.breaker.succeeded(),
            (Calls::Presence, _) | (_, Trouble::Token(_)) => core.rest(wait),
            (Calls::Lookups, _) => core.rest_lookups(wait),
        }
        // While we are kept from reading, the cadence stays what it was: that is by what the suites judge what is stale.
        if !matches!(
            core.health.health().state,
            HealthState::Connected | HealthState::Degraded
        ) {
            core.cadence = None;
        }
        let health = core.health.health().clone();
        core.tell_status(now);
        drop(core);
        if calls == Calls::Presence
            && matches!(trouble, Trouble::Microsoft(_))
            && matches!(trouble.recovery(), Recovery::Throttled { .. })
        {
            self.presence.close_for(wait);
        }
        let microsoft_code = health.cause.as_ref().map_or("", |cause| &cause.code);
        let changed = health.state != before;
        tracing::warn!(
            tenant.id = %self.id, health = health.state.as_str(), changed, microsoft.code = microsoft_code,
            error = trouble.in_words(),
            microsoft.correlation_id = trouble.correlation_id(),
            microsoft.client_request_id = trouble.client_request_id(),
            wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX), "reading presence failed"
        );
    }

    /// Names could not be looked up. While presence is read, that says whether all is well; else this does.
    fn lookup_failed(&self, trouble: &Trouble, begun: u64) {
        let now = self.shared.clock.now();
        {
            let mut core = self.core();
            let is_read = !core.hub.to_read(now, false).is_empty();
            if is_read && !matches!(trouble, Trouble::Token(_)) {
                let wait = core.lookup_wait(&trouble.recovery());
                core.rest_lookups(wait);
                tracing::warn!(
                    tenant.id = %self.id,
                    microsoft.correlation_id = trouble.correlation_id(),
                    microsoft.client_request_id = trouble.client_request_id(),
                    wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX), "looking up names failed"
                );
                return;
            }
        }
        self.failed(trouble, Calls::Lookups, begun);
    }

    async fn look_up_for_ever(&self) {
        loop {
            let wall = self.shared.clock.now();
            let now = Instant::now();
            let (rest, next_lookup, is_tried) = {
                let core = self.core();
                let rest = core
                    .breaker
                    .open_until(now)
                    .max(core.lookup_breaker.open_until(now));
                // One presence request finds out whether Microsoft is back, and wakes us if so.
                let is_tried = core.breaker.state(now) == BreakerState::HalfOpen
                    && !core.hub.to_read(wall, false).is_empty();
                (rest, core.hub.next_lookup(), is_tried)
            };
            let due = match (rest, next_lookup) {
                _ if is_tried => now + WHILE_TRIED,
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
        let begun = self.core().changes;
        while let Some(upns) = queue.pop() {
            requests += 1;
            // A group of names in a batch costs a unit, like a request of its own. `microsoft-graph.md` §7.2.
            let cost = u32::try_from(upns.len().div_ceil(MAX_IN_VALUES)).unwrap_or(u32::MAX);
            self.users.spend(cost).await;
            self.shared.application.spend(cost).await;
            let (graph, names) = (&self.graph, upns.as_slice());
            let ask = |held: Arc<Held>| {
                async move { graph.lookup(&held.token.secret, names).await }.boxed()
            };
            let answer = self.call(&self.users, ask).await;
            let now = self.shared.clock.now();
            let mut outcome = LookupOutcome::default();
            let mut all_answered = false;
            match answer {
                Ok(lookup) => {
                    all_answered = lookup.failed.is_empty();
                    self.core().lookups_succeeded();
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
                    self.lookup_failed(&trouble, begun);
                    let rest = queue.drain(..).flatten();
                    outcome.failed = upns.into_iter().chain(rest).map(|upn| (upn, now)).collect();
                }
            }
            let is_read = {
                let mut core = self.core();
                core.hub.apply_lookup(outcome, now);
                !core.hub.to_read(now, false).is_empty()
            };
            if all_answered && !is_read {
                // Nobody to be read: then this says that all is well.
                self.succeeded(begun);
            }
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
            Recovery::AskAdministrator(_) => return self.refused_names(group, now, outcome),
            Recovery::Throttled { after } => {
                let wait = after.unwrap_or(Duration::from_mins(1));
                self.users.close_for(wait);
                self.shared.metrics.throttled(Operation::Lookup, *after);
                wait
            }
            _ => Duration::from_secs(30),
        };
        tracing::warn!(tenant.id = %self.id, names = group.len(), "a part of a lookup failed");
        outcome
            .failed
            .extend(group.into_iter().map(|upn| (upn, now.plus(wait))));
    }

    /// Names we may not look up. Whose account is known already is read as before: presence may well be allowed still.
    fn refused_names(&self, group: Vec<Upn>, now: Timestamp, outcome: &mut LookupOutcome) {
        tracing::warn!(tenant.id = %self.id, names = group.len(), "names may not be looked up");
        let names = &self.shared.names;
        let (known, unknown): (Vec<Upn>, Vec<Upn>) = group
            .into_iter()
            .partition(|upn| names.contains_key(&(self.id, upn.clone())));
        let mut core = self.core();
        // Those not watched any more are let go of some time.
        if core.refused_names.len() > MOST_REFUSED_NAMES {
            core.refused_names.clear();
        }
        core.refused_names
            .extend(known.iter().chain(&unknown).cloned());
        drop(core);
        let again_at = now.plus(NAME_REFUSED);
        outcome
            .failed
            .extend(known.into_iter().map(|upn| (upn, again_at)));
        outcome.no_permission.extend(unknown);
    }
}

/// Graph for one tenant, so that pages nobody could know of are paid for as well.
fn within_budgets(shared: &Arc<Shared>, presence: &Arc<Budget>, users: &Arc<Budget>) -> Graph {
    let (all, presence, users) = (Arc::clone(shared), Arc::clone(presence), Arc::clone(users));
    shared.graph.waiting_for_turns(Arc::new(move |operation| {
        let budget = match operation {
            Operation::Lookup => Arc::clone(&users),
            _ => Arc::clone(&presence),
        };
        let all = Arc::clone(&all);
        async move {
            budget.spend(1).await;
            all.application.spend(1).await;
        }
        .boxed()
    }))
}

impl Core {
    fn rest(&mut self, wait: Duration) {
        self.breaker.failed(Instant::now() + wait);
    }

    fn rest_lookups(&mut self, wait: Duration) {
        self.lookup_breaker.failed(Instant::now() + wait);
    }

    fn lookups_succeeded(&mut self) {
        self.lookup_breaker.succeeded();
        self.lookup_pauses.succeeded();
    }

    /// How long lookups rest after a failure that is theirs alone.
    fn lookup_wait(&mut self, recovery: &Recovery) -> Duration {
        match recovery {
            Recovery::Throttled { after } => self.lookup_pauses.after_throttling(*after),
            Recovery::Retry { after } => self.lookup_pauses.after_failure(*after),
            Recovery::FreshToken { .. } | Recovery::Split => self.lookup_pauses.after_failure(None),
            Recovery::Reauthorize(_)
            | Recovery::AskAdministrator(_)
            | Recovery::OurFault { .. } => LOOKUPS_REFUSED,
        }
    }

    fn tell_status(&mut self, now: Timestamp) {
        let health = self.health.health();
        if *health != self.hub.status().0 {
            if self.history.len() >= MOST_CHANGES_KEPT {
                self.history.pop_front();
            }
            self.history.push_back((now, health.clone()));
        }
        self.hub.set_status(health.clone(), self.cadence);
    }
}
