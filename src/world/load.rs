//! A load: simulated tenants with people who change, real suites that watch them, a real presence-cloud between; what it costs, how
//! late things come, and whether every suite shows what is so in the end.

pub mod apart;
pub mod fleet;
pub mod report;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior};

use self::apart::Suites;
use self::fleet::{
    Answer, Ask, Change, Checked, Counted, Plan, SHOWN, Sample, Spread, SuitePlan, Truth,
};
use self::report::{Asked, Marks, Report, Requests, TenantRequests, Used};
use super::{Folder, World, WorldError, WorldSettings, process};
use crate::agent::identity::IdentityError;
use crate::agent::table::age;
use crate::clock::Clock;
use crate::cloud::store::ConnectionKind;
use crate::microsoft::graph::MAX_IDS;
use crate::model::TenantId;
use crate::simulator::{Endpoint, Options, RequestCounts, Tenant, TenantSpec};
use crate::telemetry;

/// How often people change: all that is due since the last time, at once.
const TICK: Duration = Duration::from_millis(10);

/// How often the suites and the cloud's process are looked at while it is counted.
const LOOK: Duration = Duration::from_secs(1);

/// A look at all values takes at most one part in so many of the time.
const LOOK_SHARE: u32 = 20;

/// How often it is asked whether everybody is known, or everything is right.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// Tenants and suites made at the same time.
const AT_ONCE: usize = 8;

/// Lines of progress, when it is not a terminal that shows them.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// What a load is made of.
#[derive(Debug, Clone)]
pub struct LoadSettings {
    /// Tenants.
    pub tenants: usize,
    /// People in each.
    pub people: usize,
    /// Suites of each tenant.
    pub suites: usize,
    /// People each suite watches; everybody of its tenant if there are fewer.
    pub watch: usize,
    /// Changes per second, over all tenants.
    pub rate: f64,
    /// How long changes are made and counted.
    pub length: Duration,
    /// Time between two readings.
    pub interval: Duration,
    /// The same seed gives the same tenants, people and changes.
    pub seed: u64,
    /// One JSON object per event.
    pub json: bool,
    /// Suites run in a process of their own.
    pub apart: bool,
    /// Where to keep everything; a temporary folder otherwise.
    pub keep: Option<PathBuf>,
    /// presence-cloud to start.
    pub program: PathBuf,
    /// Configuration of a presence-cloud that runs already, instead.
    pub config: Option<PathBuf>,
    /// Its process id.
    pub pid: Option<u32>,
    /// How long to wait for what must come: everybody known in the beginning, everything right in the end.
    pub patience: Duration,
}

/// Why a load could not be carried through.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The product could not be put together.
    #[error(transparent)]
    World(#[from] WorldError),
    /// A suite could not be started.
    #[error("a suite could not be started")]
    Suite(#[from] IdentityError),
    /// The process of the suites.
    #[error("the suites' process cannot be reached")]
    Suites(#[source] std::io::Error),
}

/// `1 tenant`, `2 tenants`.
fn some(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Tells people what happens while they wait, on standard error.
struct Progress {
    json: bool,
    in_place: bool,
    said: Option<Instant>,
}

impl Progress {
    fn new(json: bool) -> Self {
        Self {
            json,
            in_place: std::io::stderr().is_terminal(),
            said: None,
        }
    }

    fn say(&mut self, text: &str) {
        if self.json {
            return;
        }
        let mut err = std::io::stderr().lock();
        if self.in_place {
            let _ = write!(err, "\r\x1b[2K{text}");
            let _ = err.flush();
        } else if self.said.is_none_or(|said| said.elapsed() >= SAY_EVERY) {
            self.said = Some(Instant::now());
            let _ = writeln!(err, "{text}");
        }
    }

    /// A line that stays.
    fn line(&mut self, text: &str) {
        self.clear();
        if !self.json {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// Nothing more happens.
    fn clear(&self) {
        if self.in_place && !self.json {
            let _ = write!(std::io::stderr(), "\r\x1b[2K");
        }
    }
}

fn say(text: &impl fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Runs a load and tells what it showed. True when every suite showed what is so in the end.
pub async fn run(settings: LoadSettings) -> Result<bool, LoadError> {
    let folder = Folder::new("load", settings.keep.clone())?;
    let mut progress = Progress::new(settings.json);
    let mut load = Load::prepare(&settings, folder.path(), &mut progress).await?;
    let report = load.carry_out(&settings, &mut progress).await?;
    progress.clear();
    if settings.json {
        let mut object = json!({ "event": "summary" });
        if let (Some(object), Ok(serde_json::Value::Object(of))) =
            (object.as_object_mut(), serde_json::to_value(&report))
        {
            object.extend(of);
        }
        say(&object);
    } else {
        say(&report);
    }
    Ok(report.ok)
}

/// A tenant, and which of its people are watched.
struct Loaded {
    tenant: Tenant,
    /// Of those watched, how many suites watch each.
    watchers: Vec<(u32, u64)>,
}

/// Everything, ready to go.
struct Load {
    world: World,
    tenants: Vec<Loaded>,
    upns: Vec<String>,
    suites: Suites,
    pid: Option<u32>,
    watched: u64,
    clock: Clock,
    rng: fastrand::Rng,
    /// Of each person, the index in [`SHOWN`] of what was made last.
    shows: Vec<u8>,
}

/// Whom the suites of a tenant watch: as many each, spread over all, so that everybody is watched if that can be.
fn lists(people: usize, suites: usize, watch: usize) -> Vec<Vec<usize>> {
    let watch = watch.min(people);
    (0..suites)
        .map(|suite| {
            let start = suite * people / suites;
            (start..start + watch).map(|n| n % people).collect()
        })
        .collect()
}

/// Tenants with their people and suites: the plan of the suites, and the name of each suite with its tenant.
fn plan(
    tenants: Vec<Tenant>,
    settings: &LoadSettings,
    folder: &Path,
) -> (Vec<Loaded>, Plan, Vec<(TenantId, String)>) {
    let mut plan = Plan::default();
    let (mut loaded, mut names) = (Vec::new(), Vec::new());
    for tenant in tenants {
        let people = tenant.people();
        let first = plan.upns.len();
        let index = |n: usize| u32::try_from(first + n).unwrap_or(u32::MAX);
        let mut watchers: BTreeMap<u32, u64> = BTreeMap::new();
        for (n, list) in (1..).zip(lists(people.len(), settings.suites, settings.watch)) {
            let people: Vec<u32> = list.into_iter().map(index).collect();
            for person in &people {
                *watchers.entry(*person).or_default() += 1;
            }
            let name = format!("{} suite {n}", tenant.domain());
            let state = folder.join(&name);
            plan.suites.push(SuitePlan { state, people });
            names.push((tenant.id(), name));
        }
        plan.upns
            .extend(people.into_iter().map(|person| person.upn));
        let watchers = watchers.into_iter().collect();
        loaded.push(Loaded { tenant, watchers });
    }
    (loaded, plan, names)
}

impl Load {
    async fn prepare(
        settings: &LoadSettings,
        folder: &Path,
        progress: &mut Progress,
    ) -> Result<Self, LoadError> {
        let world_settings = WorldSettings {
            microsoft: Options {
                seed: settings.seed,
                ..Options::default()
            },
            interval: settings.interval,
            program: Some(settings.program.clone()),
            cloud_keys: vec![("grpc", connections(settings.tenants * settings.suites))],
            ..WorldSettings::default()
        };
        let world = match &settings.config {
            None => World::start(folder, world_settings).await?,
            Some(config) => World::around(config, folder, world_settings).await?,
        };
        let microsoft = world.microsoft_url().as_str().trim_end_matches('/');
        if settings.json {
            say(&json!({
                "event": "started", "microsoft": microsoft, "operators": world.operators_url().as_str(),
                "folder": folder.display().to_string(), "cloud_pid": world.cloud_pid().or(settings.pid),
            }));
        } else {
            progress.line(&format!(
                "To make trouble meanwhile: presence-sim fault set throttle --count 5 --at {microsoft}"
            ));
        }
        let founded = (1..=settings.tenants).map(|n| {
            let domain = format!("load{n}.example");
            world.microsoft.add_tenant(TenantSpec {
                name: domain.clone(),
                domain,
                people: settings.people,
                ..TenantSpec::default()
            })
        });
        let tenants: Vec<Tenant> = founded.collect();
        let mut connected = stream::iter(&tenants)
            .map(|tenant| world.connect(tenant, ConnectionKind::Organisation))
            .buffer_unordered(AT_ONCE);
        let mut done = 0;
        while connected.try_next().await?.is_some() {
            done += 1;
            let all = some(settings.tenants, "tenant");
            progress.say(&format!("{done} of {all} connected"));
        }
        drop(connected);
        let (tenants, mut plan, names) = plan(tenants, settings, world.folder());
        // Longer than any reading takes, also on a machine with too much to do.
        plan.must_come = settings
            .config
            .is_none()
            .then(|| settings.interval * 4 + Duration::from_secs(5));
        let mut enrolled = stream::iter(&names)
            .map(|(tenant, name)| world.enroll(*tenant, name))
            .buffer_unordered(AT_ONCE);
        let mut done = 0;
        while enrolled.try_next().await?.is_some() {
            done += 1;
            let all = some(names.len(), "suite");
            progress.say(&format!("{done} of {all} enrolled"));
        }
        drop(enrolled);
        let clock = Clock::system();
        let pid = settings.pid.or(world.cloud_pid());
        let watched = plan
            .suites
            .iter()
            .map(|suite| suite.people.len() as u64)
            .sum();
        let upns = plan.upns.clone();
        Ok(Self {
            world,
            tenants,
            suites: Suites::start(plan, settings.apart, &clock).await?,
            pid,
            watched,
            clock,
            rng: fastrand::Rng::with_seed(settings.seed),
            shows: vec![0; upns.len()],
            upns,
        })
    }

    async fn carry_out(
        &mut self,
        settings: &LoadSettings,
        progress: &mut Progress,
    ) -> Result<Report, LoadError> {
        let mut report = Report::of(Asked::of(settings, self.watched));
        if let Some(trouble) = self.until_all_is_known(settings, progress).await? {
            report.trouble = Some(trouble);
        } else {
            self.measure(settings, progress, &mut report).await?;
        }
        report.truth = match report.trouble {
            None => {
                let (checked, cut_short) = self
                    .until_all_is_right(settings, progress, "values right")
                    .await?;
                report.trouble = cut_short;
                checked
            }
            // What did not come about in the beginning is not waited for again.
            Some(_) => self.check().await?,
        };
        // Also what was made last has come by now.
        report.counted(&self.counted().await?);
        report.ok =
            report.trouble.is_none() && report.truth.right == self.watched && report.lost == 0;
        Ok(report)
    }

    /// Waits until every suite shows what is so. What is the matter, if that does not come about.
    async fn until_all_is_known(
        &mut self,
        settings: &LoadSettings,
        progress: &mut Progress,
    ) -> Result<Option<String>, LoadError> {
        let (checked, cut_short) = self
            .until_all_is_right(settings, progress, "values known")
            .await?;
        Ok((checked.right < self.watched).then(|| {
            let why =
                "Nothing was measured: not every suite came to know everybody in the beginning.";
            cut_short.map_or_else(|| why.to_owned(), |cut| format!("{cut}\n{why}"))
        }))
    }

    async fn measure(
        &mut self,
        settings: &LoadSettings,
        progress: &mut Progress,
        report: &mut Report,
    ) -> Result<(), LoadError> {
        self.suites.ask(Ask::Forget).await?;
        let requests = self.world.microsoft.requests();
        let cpu_before = (self.cpu(), self.own_cpu());
        let resident_before = self.resident();
        let (mut resident_most, mut ages) = (resident_before, Spread::default());
        let mut resident_after_a_minute = None;
        let began = Instant::now();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut look_at = began + LOOK;
        let (mut made, mut due) = (0_u64, 0_u64);
        let mut interrupted = std::pin::pin!(telemetry::interrupted());
        while began.elapsed() < settings.length {
            tokio::select! {
                _ = tick.tick() => {}
                why = self.world.cloud_died() => {
                    report.trouble = Some(why);
                    break;
                }
                () = &mut interrupted => break,
            }
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "changes in a time"
            )]
            let by_now = (began.elapsed().as_secs_f64() * settings.rate) as u64;
            due += self.change(by_now - made).await?;
            made = by_now;
            if Instant::now() >= look_at {
                let looked = Instant::now();
                let sample = self.sample().await?;
                ages.merge(&sample.ages);
                report.most_stale = report.most_stale.max(self.watched - sample.fresh);
                let resident = self.resident();
                resident_most = resident_most.max(resident);
                if resident_after_a_minute.is_none() && began.elapsed() >= Duration::from_mins(1) {
                    resident_after_a_minute = resident;
                }
                progress.say(&format!(
                    "{} of {}: {made} changes, {} of {} values fresh",
                    age(began.elapsed()),
                    age(settings.length),
                    sample.fresh,
                    self.watched
                ));
                look_at = looked + LOOK.max(looked.elapsed() * LOOK_SHARE);
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        let used = |before: Option<Duration>, after: Option<Duration>| {
            before
                .zip(after)
                .map(|(before, after)| after.saturating_sub(before).as_secs_f64())
        };
        let cloud_cpu = used(cpu_before.0, self.cpu());
        report.own_cpu_seconds = used(cpu_before.1, self.own_cpu());
        report.cloud = self.pid.zip(cloud_cpu).zip(resident_before).map(
            |((pid, cpu_seconds), resident_before)| Used {
                pid,
                cpu_seconds,
                resident_before,
                resident_after_a_minute,
                resident_most: resident_most.unwrap_or(resident_before),
                resident_after: self.resident().unwrap_or(resident_before),
            },
        );
        report.requests = self.requests_since(&requests);
        report.age_ms = Marks::from(&ages);
        (report.changes, report.due, report.seconds) = (made, due, seconds);
        Ok(())
    }

    /// So many people show something else. How many places on watch lists that concerns.
    async fn change(&mut self, count: u64) -> Result<u64, LoadError> {
        let (mut changes, mut due) = (Vec::new(), 0);
        let mut whose = Vec::new();
        for _ in 0..count {
            let Some(tenant) = self.rng.choice(0..self.tenants.len()) else {
                break;
            };
            let watchers = &self.tenants[tenant].watchers;
            let Some((person, suites)) = self.rng.choice(watchers) else {
                continue;
            };
            let shows = &mut self.shows[*person as usize];
            // One after the other, so that it is clear which change a value comes from.
            *shows = (*shows + 1) % u8::try_from(SHOWN.len()).expect("a few");
            changes.push(Change {
                person: *person,
                shows: *shows,
                at_millis: self.clock.now().as_millis(),
            });
            whose.push(tenant);
            due += suites;
        }
        if changes.is_empty() {
            return Ok(0);
        }
        // First those who wait for them, so that none comes unexpected.
        self.suites.ask(Ask::Changes(changes.clone())).await?;
        for (change, tenant) in changes.iter().zip(whose) {
            let (availability, activity) = SHOWN[usize::from(change.shows)];
            self.tenants[tenant].tenant.set_presence(
                &self.upns[change.person as usize],
                availability,
                activity,
            );
        }
        Ok(due)
    }

    /// Waits until every suite shows what is so, but not for ever: what they show then, and what cut the waiting short.
    async fn until_all_is_right(
        &mut self,
        settings: &LoadSettings,
        progress: &mut Progress,
        so_far: &str,
    ) -> Result<(Checked, Option<String>), LoadError> {
        let until = Instant::now() + settings.patience;
        loop {
            let checked = self.check().await?;
            progress.say(&format!("{} of {} {so_far}", checked.right, self.watched));
            if checked.right == self.watched || Instant::now() > until {
                return Ok((checked, None));
            }
            tokio::select! {
                () = tokio::time::sleep(ASK_AGAIN) => {}
                why = self.world.cloud_died() => return Ok((checked, Some(why))),
                () = telemetry::interrupted() => {
                    let why = "Interrupted before every suite showed what is so.";
                    return Ok((checked, Some(why.to_owned())));
                }
            }
        }
    }

    /// What everybody shows at Microsoft, as the simulator says.
    fn truth(&self) -> Truth {
        let mut truth = Truth::default();
        let mut known: HashMap<(String, String), u32> = HashMap::new();
        for loaded in &self.tenants {
            for (_, availability, activity) in loaded.tenant.shown() {
                let next = u32::try_from(known.len()).unwrap_or(u32::MAX);
                let words = (availability, activity);
                truth
                    .people
                    .push(*known.entry(words.clone()).or_insert_with(|| {
                        truth.words.push(words);
                        next
                    }));
            }
        }
        truth
    }

    async fn sample(&mut self) -> Result<Sample, LoadError> {
        match self.suites.ask(Ask::Sample).await? {
            Answer::Sample(sample) => Ok(sample),
            other => Err(misunderstood(&other)),
        }
    }

    async fn check(&mut self) -> Result<Checked, LoadError> {
        match self.suites.ask(Ask::Check(self.truth())).await? {
            Answer::Checked(checked) => Ok(checked),
            other => Err(misunderstood(&other)),
        }
    }

    async fn counted(&mut self) -> Result<Counted, LoadError> {
        match self.suites.ask(Ask::Counted).await? {
            Answer::Counted(counted) => Ok(counted),
            other => Err(misunderstood(&other)),
        }
    }

    fn cpu(&self) -> Option<Duration> {
        process::cpu(self.pid?).ok()
    }

    fn resident(&self) -> Option<u64> {
        process::resident(self.pid?).ok()
    }

    /// Of this process, and that of the suites.
    fn own_cpu(&self) -> Option<Duration> {
        let suites = self
            .suites
            .pid()
            .map_or(Some(Duration::ZERO), |pid| process::cpu(pid).ok());
        Some(process::cpu(std::process::id()).ok()? + suites?)
    }

    fn requests_since(&self, before: &RequestCounts) -> Requests {
        let now = self.world.microsoft.requests();
        let tenants = self.tenants.iter().map(|loaded| {
            let id = loaded.tenant.id();
            let of = |endpoint| now.of(id, endpoint).total - before.of(id, endpoint).total;
            let throttled = |counts: &RequestCounts| -> u64 {
                Endpoint::ALL
                    .into_iter()
                    .map(|endpoint| counts.of(id, endpoint).throttled)
                    .sum()
            };
            TenantRequests {
                tenant: loaded.tenant.domain().to_owned(),
                presence: of(Endpoint::Presence),
                lookup: of(Endpoint::Batch) + of(Endpoint::Users),
                token: of(Endpoint::Token),
                throttled: throttled(&now) - throttled(before),
            }
        });
        let watched = self
            .tenants
            .first()
            .map_or(0, |loaded| loaded.watchers.len());
        Requests {
            tenants: tenants.collect(),
            needed_per_reading: watched.div_ceil(MAX_IDS) as u64,
        }
    }
}

fn misunderstood(answer: &Answer) -> LoadError {
    LoadError::Suites(std::io::Error::other(format!(
        "they answered something else: {answer:?}"
    )))
}

/// Room for so many suites of one address, each of which may come back before its old connection is gone.
fn connections(suites: usize) -> String {
    let most = (suites * 2).max(1_000);
    format!("max_connections = {most}\nconnections_per_address = {most}")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn suites_watch_as_many_as_asked_and_together_everybody_if_that_can_be() {
        for (people, suites, watch) in [(10, 3, 4), (10, 1, 10), (7, 7, 1), (5, 2, 9), (100, 9, 12)]
        {
            let lists = lists(people, suites, watch);
            assert_eq!(lists.len(), suites);
            let mut all = HashSet::new();
            for list in lists {
                let different: HashSet<usize> = list.iter().copied().collect();
                assert_eq!(
                    (list.len(), different.len()),
                    (watch.min(people), watch.min(people))
                );
                all.extend(different);
            }
            assert_eq!(all, (0..people).collect());
        }
    }
}
