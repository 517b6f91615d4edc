//! Days that pass in a second: a world whose time is moved by hand.
//!
//! Tokio's clock is paused, and a parked blocking task keeps it from moving by itself, so that sockets and the database, which need
//! real time, lose none. Time moves in steps; after each step there is a pause of real time until nothing moves any more. Microsoft
//! is called in this process, the suites over loopback.

use std::cell::Cell;
use std::time::Duration;

use presence_bridge::clock::Clock;
use presence_bridge::cloud::store::ConnectionKind;
use presence_bridge::model::Timestamp;
use presence_bridge::simulator::{Count, Endpoint, Options, Tenant};
use presence_bridge::world::WorldSettings;

use super::stage::{Stage, Watcher, upns};

/// The usual step. Heartbeats and sweeps come as often, so nothing is missed in between.
pub const STEP: Duration = Duration::from_mins(10);

/// Real time in which nothing may move before the next step.
const QUIET: Duration = Duration::from_micros(350);
const QUIET_ROUNDS: u32 = 5;
const BUSY_ROUNDS: u32 = 50;

/// Longer than renewals of both organisations that begin together are apart.
const TURN: Duration = Duration::from_millis(110);

/// Keeps tokio's clock from moving by itself, for as long as it lives.
struct Brake(#[allow(dead_code, reason = "dropping it lets go")] std::sync::mpsc::Sender<()>);

impl Brake {
    fn new() -> Self {
        let (hold, released) = std::sync::mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || {
            let _ = released.recv();
        });
        Self(hold)
    }
}

/// Two organisations, each with a suite: one to which things happen, and one that must notice nothing.
pub struct Days {
    pub stage: Stage,
    pub tenant: Tenant,
    pub suite: Watcher,
    pub control: Tenant,
    pub control_suite: Watcher,
    /// Longest step, and time between two readings.
    step: Duration,
    turn: Cell<bool>,
    /// Tasks alive when nothing moved.
    tasks: Cell<usize>,
    _brake: Brake,
}

/// What was asked of Microsoft for one organisation, since a moment.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    pub tokens: u64,
    pub presence: u64,
}

impl Days {
    /// Both connected, everybody fresh. The runtime must be of one thread and started paused.
    pub async fn begin(kind: ConnectionKind) -> Self {
        Self::at_pace(kind, STEP, None).await
    }

    /// As [`Days::begin`], with other steps and a life of access tokens in seconds: how often something is asked shows only in
    /// steps that are short enough.
    pub async fn at_pace(kind: ConnectionKind, step: Duration, life: Option<u32>) -> Self {
        Self::with(kind, step, life, Vec::new()).await
    }

    /// As [`Days::at_pace`], with further lines of the cloud's configuration.
    pub async fn with(
        kind: ConnectionKind,
        step: Duration,
        life: Option<u32>,
        mut keys: Vec<(&'static str, String)>,
    ) -> Self {
        let brake = Brake::new();
        let mut microsoft = Options::default();
        microsoft.switches.expires_in = life;
        let heartbeat = format!("heartbeat = \"{}s\"", step.as_secs());
        keys.extend([
            ("streams", heartbeat),
            ("streams", "maximum_age = \"720h\"".into()),
            ("streams", "stalled = \"1h\"".into()),
        ]);
        let settings = WorldSettings {
            microsoft,
            interval: step,
            clock: Clock::test(Timestamp::from_secs(1_795_514_400)),
            in_process: true,
            cloud_keys: keys,
            operators_password: None,
            program: None,
        };
        let stage = Stage::new(settings).await;
        let tenant = stage.tenant_by("contoso.example", 4, kind).await;
        let control = stage
            .tenant_by("control.example", 4, ConnectionKind::Organisation)
            .await;
        let suite = stage.watching_all(&tenant, "suite").await;
        let control_suite = stage.watching_all(&control, "control").await;
        let days = Self {
            stage,
            tenant,
            suite,
            control,
            control_suite,
            step,
            turn: Cell::new(false),
            tasks: Cell::new(0),
            _brake: brake,
        };
        for _ in 0..8 {
            days.pass_in(Duration::from_secs(1), Duration::from_millis(500))
                .await;
        }
        days.pass(step).await;
        days.all_is_well();
        days
    }

    /// The person everything is asked about.
    pub fn upn(&self) -> String {
        upns(&self.tenant)[1].clone()
    }

    /// The service account of a tenant that has one.
    pub fn account(&self) -> String {
        upns(&self.tenant)[0].clone()
    }

    /// Lets time pass, and everything happen that is due meanwhile.
    pub async fn pass(&self, time: Duration) {
        self.pass_in(time, self.step).await;
    }

    pub async fn pass_in(&self, time: Duration, step: Duration) {
        let mut left = time;
        while !left.is_zero() {
            let now = left.min(step);
            tokio::time::advance(now).await;
            self.settle().await;
            // What waited for its turn behind another must not wait for a whole step.
            tokio::time::advance(TURN).await;
            self.settle().await;
            left -= now;
        }
    }

    /// Waits in real time until nothing moves.
    pub async fn settle(&self) {
        settle(
            &self.stage,
            &[&self.suite, &self.control_suite],
            &self.tasks,
        )
        .await;
    }

    pub fn count(&self, endpoint: Endpoint) -> Count {
        self.stage
            .microsoft
            .requests()
            .of(self.tenant.id(), endpoint)
    }

    /// What was asked so far.
    pub fn asked(&self) -> Asked {
        Asked {
            tokens: self.count(Endpoint::Token).total,
            presence: self.count(Endpoint::Presence).total,
        }
    }

    /// What was asked while this time passed.
    pub async fn asked_during(&self, time: Duration) -> Asked {
        let before = self.asked();
        self.pass(time).await;
        let after = self.asked();
        Asked {
            tokens: after.tokens - before.tokens,
            presence: after.presence - before.presence,
        }
    }

    pub fn state(&self) -> &'static str {
        self.suite.status().unwrap().state
    }

    /// State, and that the suite is told why and what to do.
    pub fn assert_told(&self, state: &str, cause: &str, remedy: &str) {
        let status = self.suite.status().unwrap();
        assert_eq!(status.state, state, "{status:?}");
        assert!(!status.connected);
        assert!(status.cause.contains(cause), "{status:?}");
        assert!(status.remedy.contains(remedy), "{status:?}");
    }

    /// The value is held still, but nobody takes it for what is true now.
    pub fn assert_stale(&self) {
        assert_eq!(self.suite.holds(&self.upn()), "Available", "it is kept");
        for upn in upns(&self.tenant) {
            assert!(!self.fresh(&self.suite, &upn), "{upn} is shown as fresh");
        }
    }

    pub fn is_fresh(&self) -> bool {
        self.fresh(&self.suite, &self.upn())
    }

    fn fresh(&self, suite: &Watcher, upn: &str) -> bool {
        let view = suite.handle.view();
        view.person(upn)
            .is_some_and(|p| view.is_fresh(p, self.stage.clock.now()))
    }

    /// Connected, everybody fresh, and no cause.
    pub fn all_is_well(&self) {
        for (suite, tenant) in [
            (&self.suite, &self.tenant),
            (&self.control_suite, &self.control),
        ] {
            let status = suite.status().unwrap();
            assert_eq!((status.state, status.cause.as_str()), ("connected", ""));
            for upn in upns(tenant) {
                assert!(self.fresh(suite, &upn), "{upn} is not fresh");
            }
        }
    }

    /// The other organisation is well, and what happens there arrives.
    pub async fn control_is_well(&self) {
        self.turn.set(!self.turn.get());
        let value = if self.turn.get() { "Busy" } else { "Away" };
        let upn = &upns(&self.control)[0];
        assert!(self.control.set_presence(upn, value, value));
        self.pass(self.step * 2).await;
        assert_eq!(self.control_suite.holds(upn), value);
        assert!(self.fresh(&self.control_suite, upn));
        let status = self.control_suite.status().unwrap();
        assert_eq!((status.state, status.cause.as_str()), ("connected", ""));
    }

    /// It works again: what was missed arrives within a few readings, and all is well.
    pub async fn recovers(&self) {
        self.tenant.set_presence(&self.upn(), "Busy", "InACall");
        for _ in 0..4 {
            self.pass(self.step).await;
            if self.suite.holds(&self.upn()) == "Busy" && self.is_fresh() {
                break;
            }
        }
        assert_eq!(self.suite.holds(&self.upn()), "Busy");
        self.all_is_well();
        self.control_is_well().await;
        self.all_is_well();
    }
}

/// Waits in real time until nothing moves that these suites or Microsoft could see. `tasks` is how many were alive when nothing moved.
async fn settle(stage: &Stage, suites: &[&Watcher], tasks: &Cell<usize>) {
    let mut last = fingerprint(stage, suites);
    let mut quiet = 0;
    // A renewal of a token is a task of its own. Who waits for the disk may wait for long.
    while quiet < QUIET_ROUNDS
        || disk_is_awaited(stage)
        || (quiet < BUSY_ROUNDS && last.2 > tasks.get())
    {
        tokio::task::spawn_blocking(|| std::thread::sleep(QUIET))
            .await
            .unwrap();
        let now = fingerprint(stage, suites);
        let still = now == last && !disk_is_awaited(stage);
        quiet = if still { quiet + 1 } else { 0 };
        last = now;
    }
    tasks.set(last.2);
}

fn disk_is_awaited(stage: &Stage) -> bool {
    let operations = stage.cloud().unwrap().operations();
    operations.store().in_use() > 0 || operations.telling() > 0
}

/// Changes whenever something happens that anybody could see.
fn fingerprint(stage: &Stage, suites: &[&Watcher]) -> (u64, String, usize) {
    let requests = stage.microsoft.requests();
    let total = requests.iter().map(|(_, _, c)| c.total).sum();
    let seen: Vec<_> = suites
        .iter()
        .map(|w| {
            let view = w.handle.view();
            (
                view.is_connected(),
                view.tenant().cloned(),
                view.opening().0,
                view.people()
                    .map(|p| view.age(p, stage.clock.now()))
                    .collect::<Vec<_>>(),
            )
        })
        .collect();
    let tasks = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    (total, format!("{seen:?}"), tasks)
}

/// Many organisations, each with a suite, whose time is moved by hand.
pub struct Fleet {
    pub stage: Stage,
    pub members: Vec<(Tenant, Watcher)>,
    tasks: Cell<usize>,
    _brake: Brake,
}

impl Fleet {
    /// So many connected, of so many people each, read so often and all fresh. The runtime must be of one thread and started paused.
    pub async fn begin(
        size: usize,
        people: usize,
        interval: Duration,
        mut keys: Vec<(&'static str, String)>,
    ) -> Self {
        let brake = Brake::new();
        keys.extend([
            ("streams", "heartbeat = \"60s\"".into()),
            ("streams", "maximum_age = \"720h\"".into()),
            ("streams", "stalled = \"1h\"".into()),
        ]);
        let stage = Stage::new(WorldSettings {
            interval,
            clock: Clock::test(Timestamp::from_secs(1_795_514_400)),
            in_process: true,
            cloud_keys: keys,
            ..WorldSettings::default()
        })
        .await;
        let mut members = Vec::new();
        for n in 0..size {
            let domain = format!("t{n}.example");
            let tenant = stage.tenant(&domain, people).await;
            let suite = stage.watching_all(&tenant, &domain).await;
            members.push((tenant, suite));
        }
        let fleet = Self {
            stage,
            members,
            tasks: Cell::new(0),
            _brake: brake,
        };
        for _ in 0..600 {
            if (0..size).all(|n| fleet.is_fresh(n)) {
                return fleet;
            }
            fleet.pass(Duration::from_secs(1)).await;
        }
        panic!("not everybody is read");
    }

    /// One step: whatever is due meanwhile happens at its end.
    pub async fn pass(&self, time: Duration) {
        tokio::time::advance(time).await;
        let suites: Vec<&Watcher> = self.members.iter().map(|(_, suite)| suite).collect();
        settle(&self.stage, &suites, &self.tasks).await;
    }

    /// What was asked for the nth organisation so far.
    pub fn asked(&self, n: usize, endpoint: Endpoint) -> u64 {
        let requests = self.stage.microsoft.requests();
        requests.of(self.members[n].0.id(), endpoint).total
    }

    /// What was asked for all of them so far.
    pub fn asked_of_all(&self, endpoint: Endpoint) -> u64 {
        self.stage.microsoft.requests().all(endpoint).total
    }

    pub fn state(&self, n: usize) -> &'static str {
        self.members[n].1.status().map_or("", |status| status.state)
    }

    /// Whether everybody of the nth organisation is held and fresh.
    pub fn is_fresh(&self, n: usize) -> bool {
        let counts = self.members[n]
            .1
            .handle
            .view()
            .counts(self.stage.clock.now());
        counts.watched > 0 && counts.fresh == counts.watched
    }

    /// How long ago the value of anybody of the nth organisation was confirmed, at most.
    pub fn oldest(&self, n: usize) -> Duration {
        let view = self.members[n].1.handle.view();
        let now = self.stage.clock.now();
        let ages = view.people().filter_map(|person| view.age(person, now));
        ages.max().unwrap_or(Duration::MAX)
    }
}
