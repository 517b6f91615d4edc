//! What is worth an alert: facts in, troubles out. Pure; how long a trouble must last and what is told about it is decided in
//! [`super::machine`].
//!
//! Two rules above all rules: nothing is said to be over because it is not known, and what all tenants have in common is told once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::time::Duration;

use crate::cloud::operations::view::operators_step;
use crate::cloud::operators::span;
use crate::cloud::store::{RefreshFacts, Waiting};
use crate::microsoft::Ending;
use crate::model::{Cause, Health, HealthState, SuiteId, TenantId, Timestamp};

const DAY: Duration = Duration::from_hours(24);
const MINUTE: Duration = Duration::from_mins(1);

/// Refresh tokens end 90 days after their last use. `entra-oauth.md` §6. Each is exercised daily, so these ages mean trouble of ours.
const TOKEN_IDLE: [(Duration, Severity); 3] = [
    (DAY.saturating_mul(80), Severity::Critical),
    (DAY.saturating_mul(60), Severity::Warning),
    (DAY.saturating_mul(30), Severity::Notice),
];

/// Renewals in a row that were interrupted on our side: once is a restart at a bad moment.
const INTERRUPTED: u32 = 3;

/// What tenants have in common is told once, from so many tenants on.
const COMMON_FROM: usize = 3;

/// A trouble that grows becomes more serious after so many times the time after which it was told.
const GROWN: u32 = 5;

/// Read so many times more rarely than wanted, the budget is too small for those who are watched.
const STRETCHED: u32 = 2;

/// When Microsoft answers again, everybody is read again within this time: `FAILURES_BEFORE_LONG_WAITS` in the health machine.
const BACK: Duration = MINUTE.saturating_mul(10);

/// The same after a fault of ours, for which tenants rest up to an hour.
const BACK_AFTER_OURS: Duration = MINUTE.saturating_mul(70);

/// Fewer people than this do not make a drop of the coverage.
const FEW: usize = 3;

/// How serious it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// To be known; nobody is hurt.
    Notice,
    /// Somebody is hurt or will be.
    Warning,
    /// Somebody has to act now.
    Critical,
}

impl Severity {
    /// All, the least first, with their words.
    pub const WORDS: [(&'static str, Self); 3] = [
        ("notice", Self::Notice),
        ("warning", Self::Warning),
        ("critical", Self::Critical),
    ];

    /// The word in the database, in messages and in the configuration.
    pub fn as_str(self) -> &'static str {
        Self::WORDS[self as usize].0
    }

    /// From its word.
    pub fn from_word(word: &str) -> Option<Self> {
        let known = Self::WORDS.iter().find(|(w, _)| *w == word);
        known.map(|(_, severity)| *severity)
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $word:literal, for $hold:expr, over $quiet:expr;)*) => {
        /// What an alert is about.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind {
            $($(#[$doc])* $name,)*
        }

        impl Kind {
            /// Every kind there is.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The word in the database, in messages and in the documentation.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// How long the trouble must last before it is told.
            pub const fn hold(self) -> Duration {
                match self { $(Self::$name => $hold,)* }
            }

            /// How long the trouble must be away before it is told to be over.
            pub const fn quiet(self) -> Duration {
                match self { $(Self::$name => $quiet,)* }
            }
        }
    };
}

kinds! {
    /// Microsoft refuses the connection: about to be lost (warning), or lost until somebody acts (critical).
    ConnectionLost = "connection-lost", for Duration::ZERO, over Duration::ZERO;
    /// People are watched and nobody of them was read for long.
    NoReading = "no-reading", for Duration::ZERO, over MINUTE;
    /// The same for nearly all tenants.
    MicrosoftAway = "microsoft-away", for Duration::ZERO, over MINUTE;
    /// Microsoft asks us to slow down for long.
    Throttled = "throttled", for Duration::ZERO, over MINUTE.saturating_mul(5);
    /// Everybody is read, but far more rarely than wanted.
    CadenceStretched = "cadence-stretched", for MINUTE.saturating_mul(15), over MINUTE.saturating_mul(15);
    /// Far fewer of the watched people are read than before.
    CoverageDropped = "coverage-dropped", for MINUTE.saturating_mul(10), over MINUTE;
    /// A credential of ours at Microsoft ends soon.
    CredentialEnds = "credential-ends", for Duration::ZERO, over Duration::ZERO;
    /// A credential of ours at Microsoft has ended.
    CredentialEnded = "credential-ended", for Duration::ZERO, over Duration::ZERO;
    /// Microsoft refuses a credential of ours.
    CredentialRefused = "credential-refused", for Duration::ZERO, over Duration::ZERO;
    /// A refresh token was not renewed for long.
    TokenIdle = "token-idle", for Duration::ZERO, over Duration::ZERO;
    /// Renewals of a refresh token did not come to an end on our side.
    RenewalsInterrupted = "renewals-interrupted", for Duration::ZERO, over Duration::ZERO;
    /// A suite is not connected.
    SuiteGone = "suite-gone", for Duration::ZERO, over MINUTE;
    /// Nearly all suites are not connected.
    SuitesGone = "suites-gone", for Duration::ZERO, over MINUTE;
    /// A suite does not take what is sent to it.
    SuiteSlow = "suite-slow", for Duration::ZERO, over MINUTE.saturating_mul(10);
    /// Messages about alerts do not reach a receiver.
    MessagesUndelivered = "messages-undelivered", for Duration::ZERO, over Duration::ZERO;
}

impl Kind {
    /// From its word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|k| k.as_str() == word).copied()
    }
}

/// What tells an alert from all others that are open.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// What it is about.
    pub kind: Kind,
    /// Whose connection; `None`: this service.
    pub tenant: Option<TenantId>,
    /// A suite, a credential, a receiver; may be empty.
    pub subject: String,
}

/// Something that is worth an alert now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// How serious.
    pub severity: Severity,
    /// In one line.
    pub title: String,
    /// What happened.
    pub cause: String,
    /// What to do, and who.
    pub cure: String,
}

/// From which point on something is worth an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Readings in a row that are missed, at least for a minute.
    pub missed_readings: u32,
    /// A suite is not connected for so long.
    pub suite_gone: Duration,
    /// Microsoft asks us to slow down for so long.
    pub throttled: Duration,
    /// Percent of the watched people that are lost.
    pub coverage_drop: u32,
    /// A suite has taken nothing for so long although something waits.
    pub suite_slow: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            missed_readings: 12,
            suite_gone: MINUTE * 15,
            throttled: MINUTE * 10,
            coverage_drop: 10,
            suite_slow: Duration::from_secs(20),
        }
    }
}

/// One credential of ours at Microsoft.
#[derive(Debug, Clone)]
pub struct CredentialFacts {
    /// Which: never the credential.
    pub name: String,
    /// How near its end is.
    pub ending: Ending,
    /// When it ends.
    pub ends: Option<Timestamp>,
    /// Microsoft refused it when it was last tried.
    pub refused: bool,
}

/// One suite that was not revoked.
#[derive(Debug, Clone)]
pub struct SuiteFacts {
    /// Its id.
    pub id: SuiteId,
    /// Its name.
    pub name: String,
    /// It has an open stream.
    pub connected: bool,
    /// When it last had one, or enrolled.
    pub seen: Timestamp,
    /// How long it has taken nothing although something waits.
    pub stalled: Duration,
}

/// What is known of a tenant while it is served.
#[derive(Debug, Clone)]
pub struct Served {
    /// Of its connection.
    pub health: Health,
    /// Microsoft has refused the connection at least once since it last worked.
    pub refused: bool,
    /// How long ago somebody was read, or how long it was waited for; `None`: nobody is to be read.
    pub read_age: Option<Duration>,
    /// Time between two readings, as it is.
    pub cadence: Option<Duration>,
    /// The same as it is wanted.
    pub wanted: Duration,
    /// Since when Microsoft asks us to slow down.
    pub throttled_since: Option<Timestamp>,
    /// Watched people, and how many of them are covered or still on the way.
    pub watched: usize,
    /// See there.
    pub covered: usize,
    /// Some are still being looked up.
    pub resolving: bool,
}

/// One active tenant.
#[derive(Debug, Clone)]
pub struct TenantFacts {
    /// Its id.
    pub id: TenantId,
    /// Its name.
    pub name: String,
    /// Of its stored refresh token, if it has one.
    pub refresh: Option<RefreshFacts>,
    /// Its suites.
    pub suites: Vec<SuiteFacts>,
    /// What is known while it is served.
    pub served: Option<Served>,
}

/// Everything that is judged.
#[derive(Debug, Clone)]
pub struct Facts {
    /// When.
    pub now: Timestamp,
    /// When the service was started: suites need a moment to come back.
    pub started_at: Timestamp,
    /// Of ours.
    pub credentials: Vec<CredentialFacts>,
    /// Active ones. Who is paused or off-boarded is no trouble.
    pub tenants: Vec<TenantFacts>,
    /// Receivers in trouble.
    pub undelivered: Vec<Waiting>,
}

/// What is lower for so long is the usual from then on.
const RELEARN: Duration = Duration::from_hours(24);

/// The usual coverage of a tenant, as a share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usual {
    share: f64,
    lower_since: Option<Timestamp>,
}

impl Usual {
    /// This much.
    pub const fn of(share: f64) -> Self {
        Self {
            share,
            lower_since: None,
        }
    }

    /// Takes note of what it is now. The best counts, until it has been lower for a day: accounts that are gone for good do not come back.
    fn learn(&mut self, share: f64, now: Timestamp) -> f64 {
        if share >= self.share || self.lower_since.get_or_insert(now).until(now) >= RELEARN {
            *self = Self::of(share);
        }
        self.share
    }
}

/// What is learned from one judgement for the next.
#[derive(Debug, Default)]
pub struct Memory {
    /// How much of its watch lists each tenant usually has covered. Learned, because it is normal that some names are wrong.
    pub baselines: HashMap<TenantId, Usual>,
    /// Until then it is no news of a single tenant that nobody is read: what all had in common is over only since a moment.
    in_common_until: Option<Timestamp>,
    /// The same of suites: cut off together, they come back one by one.
    suites_until: Option<Timestamp>,
}

/// What is worth an alert now, and of what it is not known whether it is.
#[derive(Debug, Default)]
pub struct Judgement {
    /// Troubles by what they are about.
    pub troubles: BTreeMap<Key, Trouble>,
    /// Not to be told to be over.
    pub unknown: HashSet<(Kind, Option<TenantId>)>,
    /// What has become something worse: not over before that is.
    pub held: HashSet<Key>,
}

impl Judgement {
    fn add(
        &mut self,
        kind: Kind,
        tenant: Option<TenantId>,
        subject: impl Into<String>,
        trouble: Trouble,
    ) {
        let subject = subject.into();
        let key = Key {
            kind,
            tenant,
            subject,
        };
        self.troubles.insert(key, trouble);
    }
}

fn trouble(
    severity: Severity,
    title: impl Into<String>,
    cause: impl Into<String>,
    cure: impl Into<String>,
) -> Trouble {
    Trouble {
        severity,
        title: title.into(),
        cause: cause.into(),
        cure: cure.into(),
    }
}

/// To the minute: what is said of a trouble must not change with each look at it.
fn minute(at: Timestamp) -> String {
    at.to_minute()
}

/// Worse when it lasts.
fn grown(lasts: Duration, limit: Duration) -> Severity {
    if lasts >= limit.saturating_mul(GROWN) {
        Severity::Critical
    } else {
        Severity::Warning
    }
}

/// Whether nearly all of these have it in common.
fn nearly_all(some: usize, of: usize) -> bool {
    of >= COMMON_FROM && some * 5 >= of * 4
}

/// Judges. `memory` is what was learned, and learns more.
pub fn judge(facts: &Facts, limits: &Limits, memory: &mut Memory) -> Judgement {
    let mut found = Judgement::default();
    credentials(facts, &mut found);
    readings(facts, limits, &mut memory.in_common_until, &mut found);
    suites(facts, limits, &mut memory.suites_until, &mut found);
    for tenant in &facts.tenants {
        one(tenant, facts.now, limits, &mut memory.baselines, &mut found);
    }
    let known = &mut memory.baselines;
    known.retain(|id, _| facts.tenants.iter().any(|t| t.id == *id));
    for of in &facts.undelivered {
        let text = trouble(
            Severity::Warning,
            format!("Messages do not reach {}", of.receiver),
            format!(
                "The oldest has waited since {}: {}.",
                minute(of.since),
                of.problem
            ),
            "Look at the receiver and at its section in the configuration. What waits is sent when it answers again, up to a day.",
        );
        found.add(Kind::MessagesUndelivered, None, &of.receiver, text);
    }
    found
}

fn credentials(facts: &Facts, found: &mut Judgement) {
    let usable = |c: &&CredentialFacts| !c.refused && c.ending < Ending::Now;
    for credential in &facts.credentials {
        let name = &credential.name;
        let others = facts.credentials.iter().filter(|c| c.name != *name);
        let replaced = others.filter(usable).any(|c| c.ending == Ending::Far);
        let date = credential.ends.map(minute).unwrap_or_default();
        let severity = |alone| if replaced { Severity::Notice } else { alone };
        let renew = if replaced {
            "Another credential is in place and takes over. Remove this one from the configuration and from the registration in Entra."
        } else {
            "Make the next one in Entra (App registrations, Certificates & secrets), add it as [[microsoft.credential]], run presence-cloud check, and restart."
        };
        let ends_in = match credential.ending {
            Ending::Far => None,
            Ending::Soon => Some(("30 days", Severity::Notice)),
            Ending::VerySoon => Some(("14 days", Severity::Warning)),
            Ending::Now => Some(("3 days", Severity::Critical)),
            Ending::Ended => {
                let text = trouble(
                    severity(Severity::Critical),
                    format!("Our {name} has ended"),
                    format!(
                        "It was good until {date}. Microsoft gives no new access tokens for it, and those in use end within 90 minutes."
                    ),
                    renew,
                );
                found.add(Kind::CredentialEnded, None, name, text);
                // Nobody is told that a credential does not end any more because it has ended.
                found.held.insert(Key {
                    kind: Kind::CredentialEnds,
                    tenant: None,
                    subject: name.clone(),
                });
                None
            }
        };
        if let Some((left, alone)) = ends_in {
            let text = trouble(
                severity(alone),
                format!("Our {name} ends within {left}"),
                format!(
                    "It is good until {date}. After that no tenant that depends on it can be read."
                ),
                renew,
            );
            found.add(Kind::CredentialEnds, None, name, text);
        }
        if credential.refused && credential.ending != Ending::Ended {
            let left = facts.credentials.iter().any(|c| !c.refused);
            let text = trouble(
                if left {
                    Severity::Warning
                } else {
                    Severity::Critical
                },
                format!("Microsoft refuses our {name}"),
                if left {
                    "Another one is in use meanwhile."
                } else {
                    "No tenant gets a new access token; those in use end within 90 minutes. No customer can do anything about it."
                },
                "The log has Microsoft's code. Most often the file holds another secret or certificate than the registration in Entra: correct one of them, run presence-cloud check, and restart.",
            );
            found.add(Kind::CredentialRefused, None, name, text);
        }
    }
}

/// So long nobody may be read before it is told.
fn patience(of: &Served, limits: &Limits) -> Duration {
    let every = of.cadence.unwrap_or_default().max(of.wanted);
    every.saturating_mul(limits.missed_readings).max(MINUTE)
}

/// Whether it is our task to read somebody, and nothing else that is told explains why nobody is.
fn should_be_read(of: &Served) -> Option<Duration> {
    let explained = of.refused
        || of.throttled_since.is_some()
        || matches!(
            of.health.state,
            HealthState::NeedsReauthorization
                | HealthState::NeedsAdministrator
                | HealthState::Suspended
                | HealthState::Gone
        );
    of.read_age.filter(|_| !explained)
}

/// Whether presence comes.
fn is_read(of: &Served) -> bool {
    of.health.state == HealthState::Connected
}

fn cause_of(health: &Health) -> Cause {
    health.cause.clone().unwrap_or_default()
}

fn sentence(cause: &Cause, otherwise: &str) -> String {
    let text = if cause.text.is_empty() {
        otherwise
    } else {
        &cause.text
    };
    let mut text = text.to_owned();
    for (what, is) in [
        ("Microsoft's code", &cause.code),
        ("correlation id", &cause.correlation_id),
    ] {
        if !is.is_empty() {
            // Writing to a string does not fail.
            let _ = write!(text, " ({what}: {is})");
        }
    }
    text
}

fn readings(
    facts: &Facts,
    limits: &Limits,
    in_common_until: &mut Option<Timestamp>,
    found: &mut Judgement,
) {
    let served: Vec<_> = facts
        .tenants
        .iter()
        .filter_map(|t| Some((t, t.served.as_ref()?)))
        .collect();
    let waited: Vec<_> = served
        .iter()
        .filter_map(|(t, s)| Some((*t, *s, should_be_read(s)?, patience(s, limits))))
        .collect();
    let silent = waited.iter().filter(|(.., age, limit)| age >= limit);
    let silent = silent.count();
    // Tenants are not read at the same moment, so the last of them is silent only a little later than the first.
    let suspicious = waited.iter().filter(|(.., age, limit)| *age >= *limit / 2);
    let in_common = nearly_all(suspicious.count(), waited.len());
    let ours = !facts.credentials.is_empty()
        && facts
            .credentials
            .iter()
            .all(|c| c.refused || c.ending == Ending::Ended);
    let (now, last) = (facts.now, *in_common_until);
    if ours {
        *in_common_until = last.max(Some(now.plus(BACK_AFTER_OURS)));
    }
    // A fault of ours is told as such, and its end is not the beginning of Microsoft's.
    let of_ours = ours || last.is_some_and(|until| until > now.plus(BACK));
    if in_common && !of_ours && nearly_all(silent, waited.len()) {
        *in_common_until = last.max(Some(now.plus(BACK)));
        let since = waited.iter().map(|(.., age, _)| *age).min();
        let since = minute(facts.now.minus(since.unwrap_or_default()));
        let text = trouble(
            Severity::Critical,
            "Nobody is read: Microsoft does not answer us",
            format!(
                "Not since {since} at the latest, for {silent} of {} tenants that are to be read.",
                waited.len()
            ),
            "Look at this machine's way to Microsoft (presence-cloud doctor) and at Microsoft's service health. Suites show what they have as stale; reading goes on by itself.",
        );
        found.add(Kind::MicrosoftAway, None, "", text);
    } else if in_common || !waited.is_empty() && !waited.iter().any(|(_, s, ..)| is_read(s)) {
        found.unknown.insert((Kind::MicrosoftAway, None));
    }
    for (tenant, served) in served {
        let id = Some(tenant.id);
        let Some(age) = should_be_read(served) else {
            if served.throttled_since.is_some() && !is_read(served) {
                // Microsoft has begun to slow us down, which is told by itself: still nobody is read.
                found.unknown.insert((Kind::NoReading, id));
            }
            continue;
        };
        if in_common || ours || in_common_until.is_some_and(|until| until > now) {
            found.unknown.insert((Kind::NoReading, id));
            continue;
        }
        let limit = patience(served, limits);
        if age < limit && !is_read(served) {
            // Since a restart nobody was read either: that is not the end of it.
            found.unknown.insert((Kind::NoReading, id));
        } else if age >= limit {
            let cause = cause_of(&served.health);
            let since = minute(facts.now.minus(age));
            let text = trouble(
                grown(age, limit),
                format!("Nobody of {} is read", tenant.name),
                format!(
                    "Not since {since}. {}",
                    sentence(&cause, "No cause is known.")
                ),
                "Other tenants are read, so look at this one: its health and history, and the log with its id. Then try it at once (refresh).",
            );
            found.add(Kind::NoReading, id, "", text);
        }
    }
}

/// A suite that was not seen for so long is out of use.
const OUT_OF_USE: Duration = Duration::from_hours(24 * 7);

fn suites(
    facts: &Facts,
    limits: &Limits,
    in_common_until: &mut Option<Timestamp>,
    found: &mut Judgement,
) {
    let now = facts.now;
    let in_grace = facts.started_at.until(now) < limits.suite_gone;
    let all: Vec<_> = facts
        .tenants
        .iter()
        .flat_map(|t| t.suites.iter().map(move |s| (t, s)))
        .collect();
    // Suites that nobody uses any more are no sign of anything.
    let in_use: Vec<_> = all
        .iter()
        .filter(|(_, s)| s.connected || s.seen.until(now) < OUT_OF_USE)
        .collect();
    let away = |since: Duration| {
        let away = in_use.iter().filter(|(_, s)| !s.connected);
        away.filter(|(_, s)| s.seen.until(now) >= since).count()
    };
    // Cut off together they are away together.
    if nearly_all(away(limits.suite_gone / 2), in_use.len()) {
        *in_common_until = Some(now.plus(limits.suite_gone));
    }
    let in_common = in_common_until.is_some_and(|until| until > now);
    if in_grace {
        found.unknown.insert((Kind::SuitesGone, None));
    } else if nearly_all(away(limits.suite_gone), in_use.len()) {
        let text = trouble(
            Severity::Critical,
            "Nearly all suites are gone",
            format!(
                "{} of {} suites are not connected.",
                away(limits.suite_gone),
                in_use.len()
            ),
            "Connect to the listener from outside: certificate, name, firewall, proxy. Agents come back by themselves.",
        );
        found.add(Kind::SuitesGone, None, "", text);
    }
    for (tenant, suite) in all {
        let id = Some(tenant.id);
        if in_grace || in_common {
            found.unknown.insert((Kind::SuiteGone, id));
        } else if !suite.connected {
            let gone = suite.seen.until(now);
            if gone >= limits.suite_gone {
                let text = trouble(
                    if gone >= limits.suite_gone.saturating_mul(16) {
                        Severity::Critical
                    } else {
                        Severity::Warning
                    },
                    format!("{} of {} is not connected", suite.name, tenant.name),
                    format!("It was last seen at {}.", minute(suite.seen)),
                    "Beside the suite: does the machine run, does presence-agent run, and what does presence-agent check say? If the suite is out of service, revoke it.",
                );
                found.add(Kind::SuiteGone, id, suite.id.to_string(), text);
            }
        }
        if suite.connected && suite.stalled >= limits.suite_slow {
            let text = trouble(
                Severity::Warning,
                format!(
                    "{} of {} does not take its messages",
                    suite.name, tenant.name
                ),
                "Its connection is open, but nothing is read from it; it is ended and begins anew.",
                "Look for a proxy or firewall between that holds messages back, and at the load of the machine beside the suite.",
            );
            found.add(Kind::SuiteSlow, id, suite.id.to_string(), text);
        }
    }
}

fn one(
    tenant: &TenantFacts,
    now: Timestamp,
    limits: &Limits,
    baselines: &mut HashMap<TenantId, Usual>,
    found: &mut Judgement,
) {
    let (id, name) = (Some(tenant.id), &tenant.name);
    if let Some(refresh) = tenant.refresh {
        let idle = refresh.stored_at.until(now);
        if let Some((_, severity)) = TOKEN_IDLE.iter().find(|(age, _)| idle >= *age) {
            let text = trouble(
                *severity,
                format!("The refresh token of {name} is not renewed"),
                format!(
                    "Not since {}. Microsoft ends it 90 days after its last use.",
                    minute(refresh.stored_at)
                ),
                "Each connection is exercised daily, so look why this one is not: its health, and the log with its id. Try it at once (refresh), or have the customer authorize it anew.",
            );
            found.add(Kind::TokenIdle, id, "", text);
        }
        if refresh.interrupted >= INTERRUPTED {
            let text = trouble(
                Severity::Warning,
                format!("Renewals of {name} do not come to an end"),
                format!(
                    "{} in a row were begun and not finished on our side; each may cost the connection.",
                    refresh.interrupted
                ),
                "Look why this service was ended or could not write: restarts, memory, the disk of the database.",
            );
            found.add(Kind::RenewalsInterrupted, id, "", text);
        }
    }
    let Some(served) = &tenant.served else {
        let of_served = [
            Kind::ConnectionLost,
            Kind::NoReading,
            Kind::Throttled,
            Kind::CadenceStretched,
            Kind::CoverageDropped,
        ];
        found
            .unknown
            .extend(of_served.into_iter().map(|kind| (kind, id)));
        return;
    };
    connection(tenant, served, found);
    if let Some(since) = served.throttled_since {
        let lasts = since.until(now);
        if lasts >= limits.throttled {
            let text = trouble(
                grown(lasts, limits.throttled),
                format!("Microsoft slows down {name}"),
                format!(
                    "Since {} it asks us to wait; values get older meanwhile.",
                    minute(since)
                ),
                "Another program of the customer may use the same limit. Else lower [poll] share, or lengthen [poll] interval.",
            );
            found.add(Kind::Throttled, id, "", text);
        } else {
            // Since a restart, or since the last answer: too early to say, and not the end of it.
            found.unknown.insert((Kind::Throttled, id));
        }
    } else if let Some(cadence) = served.cadence
        && cadence >= served.wanted.saturating_mul(STRETCHED)
    {
        let text = trouble(
            Severity::Notice,
            format!("{name} is read more rarely than wanted"),
            format!(
                "At least every {} is wanted; the people watched and the budget allow less than half of it.",
                span(served.wanted)
            ),
            "Watch fewer people, lengthen [poll] interval, or raise [poll] share.",
        );
        found.add(Kind::CadenceStretched, id, "", text);
    }
    coverage(tenant, served, limits, now, baselines, found);
}

fn connection(tenant: &TenantFacts, served: &Served, found: &mut Judgement) {
    let (id, name) = (Some(tenant.id), &tenant.name);
    let cause = cause_of(&served.health);
    let told = |severity, title| {
        trouble(
            severity,
            title,
            sentence(&cause, "Microsoft gives no access."),
            operators_step(&cause.remedy),
        )
    };
    match served.health.state {
        HealthState::NeedsReauthorization => {
            let title = format!("{name} has to sign in again");
            found.add(
                Kind::ConnectionLost,
                id,
                "",
                told(Severity::Critical, title),
            );
        }
        HealthState::NeedsAdministrator => {
            let title = format!("{name} needs its administrator");
            found.add(
                Kind::ConnectionLost,
                id,
                "",
                told(Severity::Critical, title),
            );
        }
        HealthState::Degraded if served.refused => {
            let title = format!("The connection of {name} is about to be lost");
            found.add(Kind::ConnectionLost, id, "", told(Severity::Warning, title));
        }
        // Neither lost nor well: it is not over before presence or a token came.
        HealthState::Pending | HealthState::Degraded => {
            found.unknown.insert((Kind::ConnectionLost, id));
        }
        HealthState::Connected | HealthState::Suspended | HealthState::Gone => {}
    }
}

#[expect(clippy::cast_precision_loss, reason = "people, far below 2^52")]
fn coverage(
    tenant: &TenantFacts,
    served: &Served,
    limits: &Limits,
    now: Timestamp,
    baselines: &mut HashMap<TenantId, Usual>,
    found: &mut Judgement,
) {
    let id = Some(tenant.id);
    if served.health.state != HealthState::Connected || served.resolving || served.watched == 0 {
        found.unknown.insert((Kind::CoverageDropped, id));
        return;
    }
    let share = served.covered as f64 / served.watched as f64;
    let usual = baselines.entry(tenant.id).or_insert(Usual::of(share));
    let best = usual.learn(share, now);
    let missing = (best - share) * served.watched as f64;
    // Half of the last digit: what is exactly the limit counts.
    let lost = (best - share) * 100.0 + 0.001;
    if lost >= f64::from(limits.coverage_drop) && missing >= FEW as f64 - 0.5 {
        let text = trouble(
            Severity::Warning,
            format!("Fewer people of {} are read", tenant.name),
            format!(
                "{} of {} watched people are covered; it was {:.0} % of them.",
                served.covered,
                served.watched,
                best * 100.0
            ),
            "The tenant's page names the reasons. Many not found: the customer has renamed or removed accounts. No permission: have his administrator look at the application.",
        );
        found.add(Kind::CoverageDropped, id, "", text);
    }
}

#[cfg(test)]
mod tests;
