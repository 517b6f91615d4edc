//! The demo: two tenants of 2,000 people, three suites that watch overlapping lists, and what happens; and a third organisation, which
//! somebody connects in the browser: then a suite of it comes alive.

mod screen;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::stream::{BoxStream, SelectAll, StreamExt as _};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use super::{Folder, Suite, World, WorldError, WorldSettings};
use crate::agent::json;
use crate::agent::table::{self, Screen};
use crate::agent::uplink::UplinkHandle;
use crate::agent::view::{Counts, Event};
use crate::clock::Clock;
use crate::cloud::poller::TenantFigures;
use crate::cloud::store::ConnectionKind;
use crate::model::{Presence, TenantId, Timestamp};
use crate::secret::{Secret, random_token};
use crate::simulator::{Endpoint, Life, Options, Tenant, TenantSpec};
use crate::telemetry;

/// People in each tenant.
const PEOPLE: usize = 2_000;

/// The organisation that is there to be connected in the browser, and its people.
const NEWCOMER: (&str, &str, usize) = ("northwind.example", "Northwind", 300);

/// How often it is looked whether an organisation was connected.
const LOOK_FOR_NEWCOMERS: Duration = Duration::from_secs(1);

/// Simulated seconds per second: lively, and still to be followed by eye.
const SPEED: f64 = 20.0;

/// The simulated day begins at half past nine.
const OPENING: Duration = Duration::from_mins(9 * 60 + 30);

/// Changes shown in the terminal.
const RECENT: usize = 600;

/// How the demo is run.
#[derive(Debug, Clone, Default)]
pub struct DemoSettings {
    /// Where to keep everything; a temporary folder otherwise.
    pub keep: Option<PathBuf>,
    /// One JSON object per event instead of the live view.
    pub json: bool,
    /// End after this time.
    pub length: Option<Duration>,
    /// Seed of the simulated world.
    pub seed: u64,
}

/// A change, as shown.
struct Change {
    at: Timestamp,
    suite: usize,
    upn: String,
    presence: Presence,
    changed_at: Timestamp,
}

/// A suite of the demo.
struct Player {
    name: String,
    tenant: Tenant,
    /// Came while the demo ran, when somebody connected its organisation.
    newcomer: bool,
    handle: UplinkHandle,
    values: u64,
    changes: u64,
    disconnects: u64,
}

/// Everything the view shows.
struct Demo {
    world: World,
    players: Vec<Player>,
    tenants: Vec<Tenant>,
    recent: std::collections::VecDeque<Change>,
    started: Instant,
    code: Secret,
    /// Of the operators' pages, made for this run.
    password: Secret,
    clock: Clock,
}

fn say(text: &str) -> bool {
    writeln!(std::io::stdout(), "{text}").is_ok()
}

/// Runs the demo. True when presence flowed to every suite.
pub async fn run(settings: DemoSettings) -> Result<bool, WorldError> {
    let folder = Folder::new("demo", settings.keep.clone())?;
    let screen = if settings.json { None } else { Screen::open() };
    let (mut demo, mut suites) = Demo::start(folder.path(), settings.seed).await?;
    if screen.is_none() {
        demo.introduce(settings.json);
    }
    // Kept until the figures at the end have been taken: a suite to whom nobody listens ends its stream.
    let mut events = merged(&mut suites);
    let end = async {
        match settings.length {
            Some(length) => tokio::time::sleep(length).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = demo.follow(&mut suites, &mut events, screen, settings.json) => {}
        () = end => {}
        () = telemetry::interrupted() => {}
    }
    let well = demo.finish(settings.json, settings.length.is_some());
    drop((suites, events));
    demo.world.stop_cloud().await;
    Ok(well)
}

/// What happens at all suites, with the index of the suite.
type Events = SelectAll<BoxStream<'static, (usize, Event)>>;

fn merged(suites: &mut [Suite]) -> Events {
    let mut events = SelectAll::new();
    for (index, suite) in suites.iter_mut().enumerate() {
        merge(&mut events, index, suite);
    }
    events
}

fn merge(events: &mut Events, index: usize, suite: &mut Suite) {
    let (_, nothing) = tokio::sync::mpsc::channel(1);
    let receiver = std::mem::replace(&mut suite.events, nothing);
    let numbered = ReceiverStream::new(receiver).map(move |event| (index, event));
    events.push(numbered.boxed());
}

impl Player {
    fn new(name: &str, tenant: Tenant, handle: UplinkHandle, newcomer: bool) -> Self {
        Self {
            name: name.to_owned(),
            tenant,
            newcomer,
            handle,
            values: 0,
            changes: 0,
            disconnects: 0,
        }
    }
}

impl Demo {
    async fn start(folder: &Path, seed: u64) -> Result<(Self, Vec<Suite>), WorldError> {
        let password = Secret::new(&random_token()[..20]);
        let world = World::start(
            folder,
            WorldSettings {
                microsoft: Options {
                    seed,
                    life: Life::Day { speed: SPEED },
                    opening: Some(OPENING),
                    ..Options::default()
                },
                operators_password: Some(password.clone()),
                ..WorldSettings::default()
            },
        )
        .await?;
        let spec = |domain: &str, name: &str| TenantSpec {
            domain: domain.into(),
            name: name.into(),
            people: PEOPLE,
            ..TenantSpec::default()
        };
        let contoso = world
            .add_tenant(
                spec("contoso.example", "Contoso"),
                ConnectionKind::Organisation,
            )
            .await?;
        let fabrikam = world
            .add_tenant(
                spec("fabrikam.example", "Fabrikam"),
                ConnectionKind::ServiceAccount,
            )
            .await?;
        let upns = |tenant: &Tenant, from: usize, to: usize| -> Vec<String> {
            tenant.people()[from..to]
                .iter()
                .map(|p| p.upn.clone())
                .collect()
        };
        // A few names that cannot be covered, to show that they are told.
        let mut berlin = upns(&contoso, 0, 1_200);
        berlin.push("left.last.year@contoso.example".into());
        berlin.push(contoso.add_guest("visitor@elsewhere.example").upn);
        let paris = upns(&contoso, 800, PEOPLE);
        let switchboard = upns(&fabrikam, 0, PEOPLE);
        let (mut players, mut suites) = (Vec::new(), Vec::new());
        for (name, tenant, list) in [
            ("Berlin", &contoso, berlin),
            ("Paris", &contoso, paris),
            ("Switchboard", &fabrikam, switchboard),
        ] {
            let suite = world.suite(tenant, name, list).await?;
            let (tenant, handle) = (tenant.clone(), suite.handle.clone());
            players.push(Player::new(name, tenant, handle, false));
            suites.push(suite);
        }
        let (domain, name, people) = NEWCOMER;
        world.microsoft.add_tenant(TenantSpec {
            people,
            ..spec(domain, name)
        });
        let code = world.invite(contoso.id()).await?;
        let demo = Self {
            world,
            players,
            tenants: vec![contoso, fabrikam],
            recent: std::collections::VecDeque::new(),
            started: Instant::now(),
            code,
            password,
            clock: Clock::system(),
        };
        Ok((demo, suites))
    }

    /// How to reach everything by hand: a title and a command each.
    fn hints(&self) -> Vec<(&'static str, String)> {
        let (grpc, microsoft) = (
            self.world.grpc_address(),
            self.world.microsoft_url().as_str().trim_end_matches('/'),
        );
        let somebody = self.tenants[0]
            .people()
            .first()
            .map(|p| p.upn.clone())
            .unwrap_or_default();
        vec![
            (
                "what operators see",
                format!(
                    "{} with the password {}",
                    self.world.operators_url(),
                    self.password.expose()
                ),
            ),
            (
                "gRPC, with reflection",
                format!("grpcurl -plaintext {grpc} list"),
            ),
            (
                "a suite of your own",
                format!(
                    "echo {} | cargo run --release --bin presence-agent -- enroll --state my-suite --cloud http://{grpc}",
                    self.code.expose()
                ),
            ),
            (
                "and then",
                format!(
                    "cargo run --release --bin presence-agent -- watch --state my-suite {somebody}"
                ),
            ),
            (
                "make trouble",
                format!(
                    "cargo run --release -- fault set throttle --retry-after 20 --count 1 --at {microsoft}"
                ),
            ),
            (
                "on the command line",
                format!(
                    "cargo run --release --bin presence-cloud -- --config {}/cloud.toml tenant list",
                    self.world.folder().display()
                ),
            ),
        ]
    }

    fn introduce(&self, json: bool) {
        if json {
            let (grpc, microsoft) = (
                self.world.grpc_address().to_string(),
                self.world.microsoft_url().as_str(),
            );
            say(&json!({
                "event": "started", "web": self.world.web_url().as_str(), "connect": NEWCOMER.0,
                "operators": self.world.operators_url().as_str(), "operators_password": self.password.expose(),
                "grpc": grpc, "microsoft": microsoft, "enrolment_code": self.code.expose(),
                "folder": self.world.folder().display().to_string(),
            })
            .to_string());
            return;
        }
        say(&format!(
            "Connect {} yourself, in a browser:\n    {}",
            NEWCOMER.0,
            self.world.web_url()
        ));
        for (title, command) in self.hints() {
            say(&format!("{title}:\n    {command}"));
        }
    }

    /// Follows what happens until the person at the keyboard has seen enough.
    async fn follow(
        &mut self,
        suites: &mut Vec<Suite>,
        events: &mut Events,
        mut screen: Option<Screen>,
        json: bool,
    ) {
        let mut tick = tokio::time::interval(Duration::from_millis(200));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut figures_due = Instant::now() + Duration::from_secs(5);
        let mut newcomers = tokio::time::interval(LOOK_FOR_NEWCOMERS);
        newcomers.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                _ = newcomers.tick() => {
                    if let Err(error) = self.welcome_newcomers(suites, events, json, screen.is_some()).await {
                        tracing::error!(%error, "a suite of a new organisation did not start");
                    }
                }
                Some((suite, event)) = events.next() => {
                    if !self.note(suite, event, json, screen.is_some()) {
                        return;
                    }
                    // Many at once are drawn together.
                    while let Some(Some((suite, event))) = events.next().now_or_never() {
                        if !self.note(suite, event, json, screen.is_some()) {
                            return;
                        }
                    }
                }
                _ = tick.tick() => {
                    if let Some(screen) = &mut screen {
                        if Screen::wish(0, 1) == Some(table::Wish::Quit) {
                            return;
                        }
                        if screen.draw(|frame| screen::draw(frame, self)).is_err() {
                            return;
                        }
                    } else if Instant::now() >= figures_due {
                        figures_due += Duration::from_secs(5);
                        if !self.report_figures(json) {
                            return;
                        }
                    }
                }
                died = self.world.cloud_died() => {
                    tracing::error!(%died, "the cloud has ended");
                    return;
                }
            }
        }
    }

    /// Starts a suite for every organisation that was connected in the browser meanwhile.
    async fn welcome_newcomers(
        &mut self,
        suites: &mut Vec<Suite>,
        events: &mut Events,
        json: bool,
        on_screen: bool,
    ) -> Result<(), WorldError> {
        for (id, _) in self.figures() {
            let known = self.tenants.iter().any(|t| t.id() == id);
            let Some(tenant) = self
                .world
                .microsoft
                .tenant(&id.to_string())
                .filter(|_| !known)
            else {
                continue;
            };
            let upns = tenant.people().iter().map(|p| p.upn.clone()).collect();
            let name = tenant.name().to_owned();
            self.tenants.push(tenant.clone());
            let mut suite = self.world.suite(&tenant, &name, upns).await?;
            merge(events, self.players.len(), &mut suite);
            if json {
                say(
                    &json!({"event": "tenant-connected", "tenant": tenant.domain(), "suite": name})
                        .to_string(),
                );
            } else if !on_screen {
                say(&format!(
                    "{} {name:<12} {} was connected in the browser",
                    self.clock.now(),
                    tenant.domain()
                ));
            }
            self.players
                .push(Player::new(&name, tenant, suite.handle.clone(), true));
            suites.push(suite);
        }
        Ok(())
    }

    /// Takes in an event of a suite. False when nobody reads.
    fn note(&mut self, suite: usize, event: Event, json: bool, on_screen: bool) -> bool {
        let now = self.clock.now();
        let player = &mut self.players[suite];
        match &event {
            Event::Presence { snapshot, .. } => {
                player.values += 1;
                player.changes += u64::from(!snapshot);
            }
            Event::Disconnected { .. } => player.disconnects += 1,
            _ => {}
        }
        if json {
            let mut object = json::event(&event, &player.handle.view(), now);
            object.insert("suite".into(), json!(player.name));
            return say(&Value::Object(object).to_string());
        }
        match event {
            Event::Presence {
                upn,
                value,
                snapshot: false,
                ..
            } => {
                if !on_screen {
                    let text = table::words(&value.presence);
                    return say(&format!("{now} {:<12} {upn}: {text}", player.name));
                }
                let changed_at = value.changed_at;
                self.recent.push_front(Change {
                    at: now,
                    suite,
                    upn,
                    presence: value.presence,
                    changed_at,
                });
                self.recent.truncate(RECENT);
                true
            }
            Event::Disconnected { why, .. } if !on_screen => {
                say(&format!("{now} {:<12} DISCONNECTED: {why}", player.name))
            }
            Event::TenantStatus(status) if !on_screen => say(&format!(
                "{now} {:<12} Microsoft: {} {}",
                player.name, status.state, status.cause
            )),
            _ => true,
        }
    }

    /// In the order in which the tenants came.
    fn figures(&self) -> Vec<(TenantId, TenantFigures)> {
        let mut figures = self
            .world
            .cloud()
            .map(crate::cloud::CloudView::figures)
            .unwrap_or_default();
        figures.sort_by_key(|(id, _)| self.tenants.iter().position(|t| t.id() == *id));
        figures
    }

    fn domain(&self, id: TenantId) -> &str {
        self.tenants
            .iter()
            .find(|t| t.id() == id)
            .map_or("?", Tenant::domain)
    }

    fn report_figures(&self, json: bool) -> bool {
        self.figures().into_iter().all(|(id, f)| {
            if json {
                return say(&self.tenant_json("figures", id, &f).to_string());
            }
            say(&format!(
                "{} {}: {}, read every {}, {} of {} monitored, {} of {} requests used",
                self.clock.now(),
                self.domain(id),
                f.health.state.as_str(),
                f.cadence.map_or_else(|| "-".into(), table::age),
                f.coverage.monitored,
                f.coverage.watched,
                f.requests_used,
                f.requests_allowed,
            ))
        })
    }

    fn tenant_json(&self, event: &str, id: TenantId, f: &TenantFigures) -> Value {
        let counts = self.world.microsoft.requests();
        json!({
            "event": event, "tenant": self.domain(id), "state": f.health.state.as_str(),
            "cadence_ms": f.cadence.map(|c| u64::try_from(c.as_millis()).unwrap_or(u64::MAX)),
            "watched": f.coverage.watched, "monitored": f.coverage.monitored, "sweeps": f.sweeps, "changes": f.changes,
            "presence_requests": counts.of(id, Endpoint::Presence).total,
            "lookup_requests": counts.of(id, Endpoint::Batch).total,
            "requests_used": f.requests_used, "requests_allowed": f.requests_allowed,
            "window_ms": u64::try_from(f.window.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// Whether presence has flowed to this suite: everybody it can watch has a value, and it is fresh.
    fn flowed(player: &Player, now: Timestamp) -> (bool, Counts) {
        let counts = player.handle.view().counts(now);
        (
            counts.fresh > 0 && counts.resolving == 0 && player.values > 0,
            counts,
        )
    }

    /// The end: what came to every suite. True when presence flowed to each.
    fn finish(&self, json: bool, print: bool) -> bool {
        let now = self.clock.now();
        let (mut well, mut suites) = (true, Vec::new());
        for player in &self.players {
            let (flowed, counts) = Self::flowed(player, now);
            well &= flowed || player.newcomer;
            suites.push(json!({
                "suite": player.name, "tenant": player.tenant.domain(), "flowed": flowed, "watched": counts.watched,
                "fresh": counts.fresh, "stale": counts.stale, "not_covered": counts.uncovered,
                "values": player.values, "changes": player.changes, "disconnects": player.disconnects,
            }));
            if !json && print {
                say(&format!(
                    "{:<12} {} of {} people fresh, {} not covered, {} values of which {} changes",
                    player.name,
                    counts.fresh,
                    counts.watched,
                    counts.uncovered,
                    player.values,
                    player.changes
                ));
            }
        }
        if json {
            let tenants: Vec<Value> = self
                .figures()
                .iter()
                .map(|(id, f)| self.tenant_json("tenant", *id, f))
                .collect();
            say(&json!({
                "event": "summary", "ok": well, "seconds": self.started.elapsed().as_secs(), "suites": suites,
                "tenants": tenants,
            })
            .to_string());
        }
        well
    }
}
