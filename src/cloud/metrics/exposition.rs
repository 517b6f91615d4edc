//! The page that monitoring reads: what was counted, and how things stand at this moment.
//!
//! How things stand is looked up when somebody asks. So a tenant that goes takes its lines with it, and nothing has to be kept up to
//! date in between.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{
    BREAKERS, BUDGET_ALLOWED, BUDGET_USED, BUILD, CADENCE_WANTED, CPU, CREDENTIAL_ENDS,
    CREDENTIAL_REFUSED, DRAINING, FILES, Kind, MEMORY, Metrics, START_TIME, STREAMS, SUITES, TABLE,
    TENANT_BUDGET_USED, TENANT_CADENCE, TENANT_HEALTH, TENANT_READ_AGE, TENANT_TOKEN_AGE, TENANTS,
    TENANTS_THROTTLED, WATCHED,
};
use crate::clock::Clock;
use crate::cloud::poller::breaker::BreakerState;
use crate::cloud::poller::{Breakers, TenantFigures};
use crate::cloud::store::{RefreshFacts, Store};
use crate::cloud::tenants::Tenants;
use crate::cloud::tokens::chain;
use crate::microsoft::Entra;
use crate::model::{HealthState, SuiteId, TenantId, Timestamp};

/// How often what was recorded is sorted in, and looked up what takes a query.
const TIDY: Duration = Duration::from_secs(5);

/// States a tenant that is being served may be in.
const STATES: [HealthState; 6] = [
    HealthState::Pending,
    HealthState::Connected,
    HealthState::Degraded,
    HealthState::NeedsReauthorization,
    HealthState::NeedsAdministrator,
    HealthState::Suspended,
];

const fn state_word(state: HealthState) -> &'static str {
    match state {
        HealthState::Pending => "pending",
        HealthState::Connected => "connected",
        HealthState::Degraded => "degraded",
        HealthState::NeedsReauthorization => "needs_reauthorization",
        HealthState::NeedsAdministrator => "needs_administrator",
        HealthState::Suspended => "suspended",
        HealthState::Gone => "gone",
    }
}

/// Where what is shown is looked up.
pub struct Exposition {
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The tenants being served.
    pub tenants: Arc<Tenants>,
    /// Holds our credentials.
    pub entra: Entra,
    /// Holds the refresh tokens.
    pub store: Store,
    /// Tells the time.
    pub clock: Clock,
    /// Configured time between two readings.
    pub interval: Duration,
    /// When the service was started.
    pub started_at: Timestamp,
    /// Cancelled when the service says good-bye.
    pub draining: CancellationToken,
    /// What is known of the refresh tokens, as last looked up.
    pub refresh_tokens: Mutex<HashMap<TenantId, RefreshFacts>>,
}

/// Text as Prometheus reads it.
struct Text(String);

type Sample<'a> = (Vec<(&'static str, &'a str)>, f64);

impl Text {
    fn family<'a>(&mut self, name: &str, samples: impl IntoIterator<Item = Sample<'a>>) {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return;
        }
        let row = TABLE.iter().find(|metric| metric.name == name);
        let (kind, help) = row.map_or((Kind::Gauge, ""), |row| (row.kind, row.help));
        // Writing to a string does not fail.
        let _ = writeln!(
            self.0,
            "# HELP {name} {help}\n# TYPE {name} {}",
            kind.word()
        );
        for (labels, value) in samples {
            self.0.push_str(name);
            for (n, (label, text)) in labels.iter().enumerate() {
                self.0.push(if n == 0 { '{' } else { ',' });
                let text = text.replace('\\', "\\\\").replace('"', "\\\"");
                let _ = write!(self.0, "{label}=\"{}\"", text.replace('\n', "\\n"));
            }
            if !labels.is_empty() {
                self.0.push('}');
            }
            let _ = writeln!(self.0, " {value}");
        }
        self.0.push('\n');
    }

    fn value(&mut self, name: &str, value: f64) {
        self.family(name, [(Vec::new(), value)]);
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts far below 2^52, for people"
)]
fn number(count: usize) -> f64 {
    count as f64
}

#[expect(
    clippy::cast_precision_loss,
    reason = "milliseconds since 1970 are below 2^52"
)]
fn unix(at: Timestamp) -> f64 {
    at.as_millis() as f64 / 1000.0
}

impl Exposition {
    /// Everything, as Prometheus reads it. Takes a while with many tenants: not for a thread that must not wait.
    pub fn render(&self) -> String {
        let mut text = Text(self.metrics.counted());
        self.tenants(&mut text);
        let (used, allowed) = self.tenants.application_budget();
        text.value(BUDGET_USED, f64::from(used));
        text.value(BUDGET_ALLOWED, f64::from(allowed));
        text.value(CADENCE_WANTED, self.interval.as_secs_f64());
        let credentials: Vec<_> = self
            .entra
            .credentials()
            .into_iter()
            .map(|facts| (facts.to_string(), facts))
            .collect();
        text.family(
            CREDENTIAL_ENDS,
            credentials.iter().filter_map(|(name, facts)| {
                Some((vec![("credential", name.as_str())], unix(facts.ends?)))
            }),
        );
        text.family(
            CREDENTIAL_REFUSED,
            credentials.iter().map(|(name, facts)| {
                let refused = f64::from(u8::from(facts.refused));
                (vec![("credential", name.as_str())], refused)
            }),
        );
        let draining = self.draining.is_cancelled();
        text.value(DRAINING, f64::from(u8::from(draining)));
        let version = ("version", env!("CARGO_PKG_VERSION"));
        text.family(BUILD, [(vec![version], 1.0)]);
        text.value(START_TIME, unix(self.started_at));
        process(&mut text);
        text.0
    }

    fn tenants(&self, text: &mut Text) {
        let now = self.clock.now();
        let all: Vec<_> = self
            .tenants
            .all()
            .iter()
            .map(|tenant| (tenant.id(), tenant.id().to_string(), tenant.figures()))
            .collect();
        text.family(
            TENANTS,
            STATES.iter().map(|state| {
                let count = all
                    .iter()
                    .filter(|(.., f)| f.health.state == *state)
                    .count();
                (vec![("state", state_word(*state))], number(count))
            }),
        );
        let throttled = all.iter().filter(|(.., f)| f.throttled_since.is_some());
        let throttled = throttled.count();
        text.value(TENANTS_THROTTLED, number(throttled));
        let mut breakers = Vec::new();
        for (n, (endpoint, _)) in Breakers::default().each().iter().enumerate() {
            for state in BreakerState::ALL {
                let stands = |f: &TenantFigures| f.breakers.each()[n].1 == state;
                let count = all.iter().filter(|(.., f)| stands(f)).count();
                let word = match state {
                    BreakerState::HalfOpen => "half_open",
                    other => other.as_str(),
                };
                let labels = vec![("endpoint", *endpoint), ("state", word)];
                breakers.push((labels, number(count)));
            }
        }
        text.family(BREAKERS, breakers);
        let sum = |of: fn(&TenantFigures) -> usize| number(all.iter().map(|(.., f)| of(f)).sum());
        text.value(STREAMS, sum(|f| f.of_streams.len()));
        let suites = |f: &TenantFigures| {
            let suites: HashSet<SuiteId> = f.of_streams.iter().map(|s| s.suite).collect();
            suites.len()
        };
        text.value(SUITES, sum(suites));
        text.family(
            WATCHED,
            [
                ("monitored", sum(|f| f.coverage.monitored)),
                ("resolving", sum(|f| f.coverage.resolving)),
                (
                    "uncovered",
                    sum(|f| {
                        let c = &f.coverage;
                        c.watched.saturating_sub(c.monitored + c.resolving)
                    }),
                ),
            ]
            .map(|(coverage, count)| (vec![("coverage", coverage)], count)),
        );
        text.family(
            TENANT_HEALTH,
            all.iter().map(|(_, id, figures)| {
                let state = state_word(figures.health.state);
                (vec![("tenant", id.as_str()), ("state", state)], 1.0)
            }),
        );
        let of_each = |value: &dyn Fn(&TenantFigures) -> Option<f64>| {
            all.iter()
                .filter_map(|(_, id, f)| Some((vec![("tenant", id.as_str())], value(f)?)))
                .collect::<Vec<_>>()
        };
        text.family(
            TENANT_READ_AGE,
            of_each(&|f| f.read_age.map(|age| age.as_secs_f64())),
        );
        text.family(
            TENANT_CADENCE,
            of_each(&|f| f.cadence.map(|cadence| cadence.as_secs_f64())),
        );
        text.family(
            TENANT_BUDGET_USED,
            of_each(&|f| Some(f64::from(f.requests_used) / f64::from(f.requests_allowed.max(1)))),
        );
        let stored = self
            .refresh_tokens
            .lock()
            .expect("nothing panics while holding it");
        text.family(
            TENANT_TOKEN_AGE,
            all.iter().filter_map(|(tenant, id, _)| {
                let age = stored.get(tenant)?.stored_at.until(now);
                Some((vec![("tenant", id.as_str())], age.as_secs_f64()))
            }),
        );
    }

    /// Keeps what was recorded in order, for ever.
    pub async fn tidy_for_ever(self: Arc<Self>) {
        loop {
            self.metrics.tidy();
            match self.store.refresh_facts(None).await {
                Ok(facts) => {
                    let mut known = self
                        .refresh_tokens
                        .lock()
                        .expect("nothing panics while holding it");
                    *known = facts;
                }
                Err(e) => {
                    tracing::warn!(error = %chain(&e), "the age of refresh tokens is not known");
                }
            }
            tokio::time::sleep(TIDY).await;
        }
    }
}

/// What Linux tells of this process; elsewhere nothing.
fn process(text: &mut Text) {
    if let Ok(stat) = std::fs::read_to_string("/proc/self/stat")
        && let Some(seconds) = processor_seconds(&stat)
    {
        text.value(CPU, seconds);
    }
    if let Ok(status) = std::fs::read_to_string("/proc/self/status")
        && let Some(bytes) = resident_bytes(&status)
    {
        text.value(MEMORY, bytes);
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        // One of them is this folder itself.
        text.value(FILES, number(files.count().saturating_sub(1)));
    }
}

/// The 14th and 15th field, in the hundredths of a second of Linux's interface. The second one, the name, may hold blanks.
fn processor_seconds(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks = |n| fields.split_whitespace().nth(n)?.parse::<u32>().ok();
    Some((f64::from(ticks(11)?) + f64::from(ticks(12)?)) / 100.0)
}

fn resident_bytes(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    let kibibytes: u32 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(f64::from(kibibytes) * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_linux_says_is_read() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 9 0 0 0 150 50 0 0 20 0 9 0 12";
        assert_eq!(processor_seconds(stat), Some(2.0));
        assert_eq!(processor_seconds("nonsense"), None);
        let status = "Name:\tx\nVmRSS:\t    2048 kB\nThreads:\t1\n";
        assert_eq!(resident_bytes(status), Some(2048.0 * 1024.0));
        assert_eq!(resident_bytes("VmRSS:\tnone\n"), None);
    }

    #[test]
    fn texts_in_labels_are_escaped_and_families_without_samples_left_out() {
        let mut text = Text(String::new());
        text.family(STREAMS, Vec::new());
        assert_eq!(text.0, "");
        text.family(
            CREDENTIAL_REFUSED,
            [(vec![("credential", "a \"b\" \\ c\nd")], 1.0)],
        );
        assert!(
            text.0
                .ends_with("{credential=\"a \\\"b\\\" \\\\ c\\nd\"} 1\n\n"),
            "{}",
            text.0
        );
    }
}
