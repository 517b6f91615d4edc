//! What a load showed: for people and for programs.

use std::fmt::{self, Write as _};
use std::time::Duration;

use serde::Serialize;

use super::LoadSettings;
use super::fleet::{Checked, Counted, Spread};

/// What a load showed.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether every suite showed what was so in the end, and no change was lost.
    pub ok: bool,
    /// What was asked for.
    pub load: Asked,
    /// How long changes were made and counted, in seconds.
    pub seconds: f64,
    /// Changes made at Microsoft.
    pub changes: u64,
    /// Changes due at suites: each, once for every suite that watches the person.
    pub due: u64,
    /// Changes that came to suites. Fewer than due when a newer change of the same person overtook one.
    pub delivered: u64,
    /// Of these, those that this load did not make.
    pub unexpected: u64,
    /// Changes that neither came nor were overtaken.
    pub lost: u64,
    /// Changes that came, per second.
    pub delivered_per_second: f64,
    /// From the change at Microsoft to the suite, in milliseconds.
    pub lag_ms: Marks,
    /// Of all values on all suites, looked at again and again: since Microsoft last confirmed them, in milliseconds.
    pub age_ms: Marks,
    /// Most values at one look that were too old to be shown as they are now.
    pub most_stale: u64,
    /// Streams that broke.
    pub disconnects: u64,
    /// What the cloud used; `None` when its process is not known.
    pub cloud: Option<Used>,
    /// Processor seconds of this tool, with its Microsoft and its suites.
    pub own_cpu_seconds: Option<f64>,
    /// Requests to Microsoft while it was counted.
    pub requests: Requests,
    /// The suites beside the truth, in the end.
    pub truth: Checked,
    /// Why the load could not be carried through, if so.
    pub trouble: Option<String>,
}

/// What was asked for.
#[derive(Debug, Clone, Serialize)]
pub struct Asked {
    /// Tenants.
    pub tenants: usize,
    /// People in each.
    pub people: usize,
    /// Suites of each.
    pub suites: usize,
    /// Places on all watch lists.
    pub watched: u64,
    /// Changes per second, over all tenants.
    pub rate: f64,
    /// Time between two readings, in milliseconds; `None` when a cloud was used that was there.
    pub interval_ms: Option<u64>,
    /// The seed.
    pub seed: u64,
    /// Whether the suites had a process of their own.
    pub apart: bool,
}

impl Asked {
    /// Of these settings.
    pub fn of(settings: &LoadSettings, watched: u64) -> Self {
        let interval = settings.config.is_none().then_some(settings.interval);
        Self {
            tenants: settings.tenants,
            people: settings.people,
            suites: settings.suites,
            watched,
            rate: settings.rate,
            interval_ms: interval.map(|i| u64::try_from(i.as_millis()).unwrap_or(u64::MAX)),
            seed: settings.seed,
            apart: settings.apart,
        }
    }
}

/// The middle and the ends of many.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Marks {
    /// How many.
    pub count: u64,
    /// The middle one.
    pub p50: Option<u64>,
    /// 99 of 100 are not above.
    pub p99: Option<u64>,
    /// The greatest.
    pub max: Option<u64>,
}

impl From<&Spread> for Marks {
    fn from(spread: &Spread) -> Self {
        Self {
            count: spread.count(),
            p50: spread.at(500),
            p99: spread.at(990),
            max: spread.at(1_000),
        }
    }
}

/// What a process used.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Used {
    /// Its id.
    pub pid: u32,
    /// Processor seconds.
    pub cpu_seconds: f64,
    /// Resident memory when counting began, in bytes.
    pub resident_before: u64,
    /// A minute later; `None` when it did not last so long.
    pub resident_after_a_minute: Option<u64>,
    /// The most at a look.
    pub resident_most: u64,
    /// In the end.
    pub resident_after: u64,
}

/// Requests to Microsoft.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Requests {
    /// Each tenant's.
    pub tenants: Vec<TenantRequests>,
    /// Requests one reading of a tenant needs: everybody watched, by 650.
    pub needed_per_reading: u64,
}

/// Requests for one tenant.
#[derive(Debug, Clone, Serialize)]
pub struct TenantRequests {
    /// Its domain.
    pub tenant: String,
    /// For presence.
    pub presence: u64,
    /// To look up names.
    pub lookup: u64,
    /// For tokens.
    pub token: u64,
    /// Of all, refused because there were too many.
    pub throttled: u64,
}

impl Report {
    /// Nothing was measured yet.
    pub fn of(load: Asked) -> Self {
        Self {
            ok: false,
            load,
            seconds: 0.0,
            changes: 0,
            due: 0,
            delivered: 0,
            unexpected: 0,
            lost: 0,
            delivered_per_second: 0.0,
            lag_ms: Marks::default(),
            age_ms: Marks::default(),
            most_stale: 0,
            disconnects: 0,
            cloud: None,
            own_cpu_seconds: None,
            requests: Requests::default(),
            truth: Checked::default(),
            trouble: None,
        }
    }

    /// Takes in what the suites counted.
    pub fn counted(&mut self, counted: &Counted) {
        self.delivered = counted.delivered;
        self.unexpected = counted.unexpected;
        self.lost = counted.lost;
        self.disconnects = counted.disconnects;
        if self.trouble.is_none() {
            self.trouble.clone_from(&counted.gave_up);
        }
        self.lag_ms = Marks::from(&counted.lag);
        #[expect(clippy::cast_precision_loss, reason = "far below")]
        let per_second = counted.delivered as f64 / self.seconds.max(0.001);
        self.delivered_per_second = per_second;
    }
}

/// `4.2 s`, `310 ms`.
fn span(millis: Option<u64>) -> String {
    match millis {
        None => "–".to_owned(),
        Some(millis) if millis < 1_000 => format!("{millis} ms"),
        Some(millis) => format!("{:.1} s", Duration::from_millis(millis).as_secs_f64()),
    }
}

fn marks(of: Marks) -> String {
    format!(
        "p50 {:<8} p99 {:<8} max {}",
        span(of.p50),
        span(of.p99),
        span(of.max)
    )
}

fn mib(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "far below")]
    let mib = bytes as f64 / 1024.0 / 1024.0;
    format!("{mib:.1} MiB")
}

/// The smallest, the middle and the greatest, said short when they are the same.
fn range(of: impl Iterator<Item = u64>) -> String {
    let mut all: Vec<u64> = of.collect();
    all.sort_unstable();
    match (all.first(), all.get(all.len() / 2), all.last()) {
        (Some(least), Some(middle), Some(most)) if least != most => {
            format!("{least} to {most}, the middle one {middle}")
        }
        (Some(least), ..) => least.to_string(),
        _ => "–".to_owned(),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line =
            |f: &mut fmt::Formatter<'_>, what: &str, text: &str| writeln!(f, "  {what:<22}{text}");
        let l = &self.load;
        writeln!(
            f,
            "\n{} × {}, {} each; {} on watch lists; {} changes a second for {:.0} s{}\n",
            super::some(l.tenants, "tenant"),
            if l.people == 1 {
                "1 person".to_owned()
            } else {
                format!("{} people", l.people)
            },
            super::some(l.suites, "suite"),
            super::some(usize::try_from(l.watched).unwrap_or(usize::MAX), "place"),
            l.rate,
            self.seconds,
            l.interval_ms
                .map_or(String::new(), |i| format!("; read every {}", span(Some(i)))),
        )?;
        line(f, "change → suite", &marks(self.lag_ms))?;
        let overtaken = self.due.saturating_sub(self.delivered + self.lost);
        let mut changes = format!(
            "{} made, {} due at suites, {} came ({:.1} a second)",
            self.changes, self.due, self.delivered, self.delivered_per_second
        );
        if overtaken > 0 {
            let _ = write!(changes, "; {overtaken} overtaken by newer ones");
        }
        if self.lost > 0 {
            let _ = write!(changes, "; {} LOST", self.lost);
        }
        if self.unexpected > 0 {
            let _ = write!(changes, "; {} that nobody made", self.unexpected);
        }
        line(f, "changes", &changes)?;
        line(f, "age of values", &marks(self.age_ms))?;
        line(
            f,
            "too old, at most",
            &format!("{} of {}", self.most_stale, l.watched),
        )?;
        line(f, "streams that broke", &self.disconnects.to_string())?;
        if let Some(cloud) = self.cloud {
            line(
                f,
                "presence-cloud",
                &format!(
                    "{:.2} CPU seconds ({:.1} % of a core); memory {} before,{} at most {}, {} after (pid {})",
                    cloud.cpu_seconds,
                    cloud.cpu_seconds / self.seconds.max(0.001) * 100.0,
                    mib(cloud.resident_before),
                    cloud
                        .resident_after_a_minute
                        .map_or(String::new(), |then| format!(
                            " {} after a minute,",
                            mib(then)
                        )),
                    mib(cloud.resident_most),
                    mib(cloud.resident_after),
                    cloud.pid
                ),
            )?;
        } else {
            line(
                f,
                "presence-cloud",
                "its process is not known; name it with --pid",
            )?;
        }
        if let Some(own) = self.own_cpu_seconds {
            let text = format!("{own:.2} CPU seconds, with its Microsoft and its suites");
            line(f, "this tool", &text)?;
        }
        let t = &self.requests.tenants;
        line(
            f,
            "requests per tenant",
            &format!(
                "presence {} ({} a reading); names {}; tokens {}; throttled {}",
                range(t.iter().map(|t| t.presence)),
                self.requests.needed_per_reading,
                range(t.iter().map(|t| t.lookup)),
                range(t.iter().map(|t| t.token)),
                t.iter().map(|t| t.throttled).sum::<u64>(),
            ),
        )?;
        let c = &self.truth;
        line(
            f,
            "in the end",
            &format!(
                "{} of {} right, {} wrong, {} missing, {} right but old",
                c.right, c.watched, c.wrong, c.missing, c.stale
            ),
        )?;
        for example in &c.examples {
            line(f, "", example)?;
        }
        if let Some(trouble) = &self.trouble {
            writeln!(f, "\n{trouble}")?;
        }
        writeln!(
            f,
            "\n{}",
            if self.ok {
                "Every suite shows what is so."
            } else if c.right < c.watched {
                "FAILED: not every suite shows what is so."
            } else if self.lost > 0 {
                "FAILED: every suite shows what is so in the end, but changes were lost on the way."
            } else {
                "FAILED."
            }
        )
    }
}
