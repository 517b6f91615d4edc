//! What machines ask without signing in: is the process alive, can it serve, and the metrics. Only on the operators' listener.
//!
//! `/livez` fails when a loop hangs that the service cannot do without: only a restart helps. `/readyz` fails when suites and browsers
//! had better go elsewhere. What is wrong and yet served is "degraded", named, and answered with 200: sending everybody away would
//! help nobody.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::{StatusCode, header};
use serde::Serialize;
use tokio::time::Instant;

use crate::cloud::listener::admit;
use crate::cloud::metrics::exposition::Exposition;
use crate::cloud::pulse::Pulse;
use crate::cloud::store::TenantStatus;
use crate::cloud::tokens::chain;
use crate::microsoft::{CredentialFacts, Ending};
use crate::model::{HealthState, Timestamp};
use crate::secret::KeyRing;

/// An answer is good for this long: however many ask, the store is written once.
const FRESH: Duration = Duration::from_secs(1);

/// The store and the file of the keys must answer within this time.
const ANSWER: Duration = Duration::from_secs(3);

/// How Prometheus knows its text.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// As it should be.
    Ok,
    /// Not as it should be, and served all the same.
    Degraded,
    /// Not served.
    Failed,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// How it is.
    pub state: Condition,
    /// Why it is not ok.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl Check {
    fn ok(name: &'static str) -> Self {
        Self {
            name,
            state: Condition::Ok,
            why: None,
        }
    }

    fn degraded(name: &'static str, why: impl Into<String>) -> Self {
        Self {
            name,
            state: Condition::Degraded,
            why: Some(why.into()),
        }
    }

    fn failed(name: &'static str, why: impl Into<String>) -> Self {
        Self {
            name,
            state: Condition::Failed,
            why: Some(why.into()),
        }
    }
}

/// The answer to a probe.
#[derive(Debug, Clone, Serialize)]
struct Report {
    state: Condition,
    checks: Vec<Check>,
}

impl Report {
    fn of(checks: Vec<Check>) -> Self {
        let worst = checks.iter().map(|check| check.state).max();
        Self {
            state: worst.unwrap_or(Condition::Ok),
            checks,
        }
    }
}

impl IntoResponse for Report {
    fn into_response(self) -> Response {
        let status = match self.state {
            Condition::Ok | Condition::Degraded => StatusCode::OK,
            Condition::Failed => StatusCode::SERVICE_UNAVAILABLE,
        };
        let headers = [(header::CACHE_CONTROL, "no-store")];
        (status, headers, Json(self)).into_response()
    }
}

/// What probes look at.
pub struct Probes {
    exposition: Arc<Exposition>,
    pulse: Arc<Pulse>,
    key_file: std::path::PathBuf,
    last: tokio::sync::Mutex<Option<(Instant, Report)>>,
    /// Held while the metrics are put together: however many ask, one at a time.
    rendering: tokio::sync::Mutex<()>,
}

impl Probes {
    /// Of this service.
    pub fn new(
        exposition: Arc<Exposition>,
        pulse: Arc<Pulse>,
        key_file: std::path::PathBuf,
    ) -> Arc<Self> {
        Arc::new(Self {
            exposition,
            pulse,
            key_file,
            last: tokio::sync::Mutex::default(),
            rendering: tokio::sync::Mutex::default(),
        })
    }

    /// Their addresses.
    pub fn routes(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .layer(axum::middleware::from_fn(let_in))
            .with_state(Arc::clone(self))
    }

    fn live(&self) -> Report {
        let beats = self.pulse.state().into_iter();
        Report::of(
            beats
                .map(|(name, late)| match late {
                    None => Check::ok(name),
                    Some(late) => {
                        Check::failed(name, format!("no sign of life for {} s", late.as_secs()))
                    }
                })
                .collect(),
        )
    }

    async fn ready(&self) -> Report {
        if self.exposition.draining.is_cancelled() {
            let draining = Check::failed("draining", "the service is stopping");
            return Report::of(vec![draining]);
        }
        let mut last = self.last.lock().await;
        if let Some((at, report)) = &*last
            && at.elapsed() < FRESH
        {
            return report.clone();
        }
        let now = self.exposition.clock.now();
        let loaded = if self.exposition.tenants.loaded() {
            Check::ok("tenants")
        } else {
            Check::failed("tenants", "they have not all been loaded since the start")
        };
        let (store, keys) = tokio::join!(self.store(), self.keys());
        let report = Report::of(vec![
            store,
            keys,
            credentials(&self.exposition.entra.credentials(), now),
            self.listeners(),
            loaded,
            self.microsoft(),
        ]);
        *last = Some((Instant::now(), report.clone()));
        report
    }

    async fn store(&self) -> Check {
        const NAME: &str = "store";
        match tokio::time::timeout(ANSWER, self.exposition.store.check()).await {
            Ok(Ok(())) => Check::ok(NAME),
            Ok(Err(e)) => {
                tracing::error!(error = %chain(&e), "the store cannot be read and written");
                Check::failed(NAME, e.to_string())
            }
            Err(_) => Check::failed(NAME, "no answer in time"),
        }
    }

    async fn keys(&self) -> Check {
        const NAME: &str = "key ring";
        let file = self.key_file.clone();
        let read = tokio::task::spawn_blocking(move || KeyRing::read(&file)?.current());
        match tokio::time::timeout(ANSWER, read).await {
            Ok(Ok(Ok(_))) => Check::ok(NAME),
            Ok(Ok(Err(e))) => {
                tracing::error!(error = %chain(&e), "the key ring cannot be read");
                Check::failed(NAME, "the file cannot be used; the log says why")
            }
            Ok(Err(_)) | Err(_) => Check::failed(NAME, "no answer in time"),
        }
    }

    fn listeners(&self) -> Check {
        const NAME: &str = "listeners";
        let beats = self.pulse.state().into_iter();
        let late: Vec<_> = beats
            .filter(|(name, late)| name.ends_with("listener") && late.is_some())
            .map(|(name, _)| name)
            .collect();
        if late.is_empty() {
            Check::ok(NAME)
        } else {
            Check::failed(NAME, format!("not accepting: {}", late.join(", ")))
        }
    }

    /// A single tenant's trouble is that tenant's; here counts whether everybody is in it.
    fn microsoft(&self) -> Check {
        const NAME: &str = "microsoft";
        let tenants = self.exposition.tenants.all();
        let active = tenants
            .iter()
            .filter(|tenant| tenant.row().status == TenantStatus::Active);
        let states: Vec<HealthState> = active.map(|tenant| tenant.health().state).collect();
        let count = |state| states.iter().filter(|s| **s == state).count();
        let degraded = count(HealthState::Degraded);
        if degraded > 0 && count(HealthState::Connected) == 0 {
            let why = format!("no tenant is read as it should be: {degraded} degraded");
            return Check::degraded(NAME, why);
        }
        Check::ok(NAME)
    }
}

/// At least one credential of ours must be good; that it soon is not is said in time.
fn credentials(all: &[CredentialFacts], now: Timestamp) -> Check {
    const NAME: &str = "credentials";
    let good: Vec<_> = all
        .iter()
        .filter(|one| one.ending(now) != Ending::Ended)
        .collect();
    if good.is_empty() {
        return Check::failed(NAME, "every credential of ours has ended");
    }
    if good.iter().all(|one| one.refused) {
        return Check::degraded(NAME, "Microsoft refuses every credential of ours");
    }
    // One that does not tell its end is taken for good.
    let lasting = good
        .iter()
        .filter(|one| !one.refused)
        .max_by_key(|one| one.ends.map_or(i64::MAX, Timestamp::as_millis));
    let Some((one, ends)) = lasting.and_then(|one| Some((one, one.ends?))) else {
        return Check::ok(NAME);
    };
    match one.ending(now) {
        Ending::Far | Ending::Soon => Check::ok(NAME),
        Ending::VerySoon | Ending::Now | Ending::Ended => {
            let days = now.until(ends).as_secs() / (24 * 60 * 60);
            Check::degraded(
                NAME,
                match days {
                    0 => format!("{one}, the last one that is good, ends today"),
                    1 => format!("{one}, the last one that is good, ends in 1 day"),
                    days => format!("{one}, the last one that is good, ends in {days} days"),
                },
            )
        }
    }
}

/// Whoever reaches this listener may probe, and keep the connection for the next time.
async fn let_in(request: Request, next: Next) -> Response {
    admit(request.extensions());
    next.run(request).await
}

async fn livez(State(probes): State<Arc<Probes>>) -> Response {
    probes.live().into_response()
}

async fn readyz(State(probes): State<Arc<Probes>>) -> Response {
    probes.ready().await.into_response()
}

async fn metrics(State(probes): State<Arc<Probes>>) -> Response {
    let _one_at_a_time = probes.rendering.lock().await;
    let exposition = Arc::clone(&probes.exposition);
    // With many tenants it takes a while.
    match tokio::task::spawn_blocking(move || exposition.render()).await {
        Ok(text) => ([(header::CONTENT_TYPE, METRICS_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::microsoft::CredentialKind;

    const DAY: Duration = Duration::from_hours(24);

    fn credential(ends_in_days: Option<u32>, refused: bool) -> CredentialFacts {
        CredentialFacts {
            kind: CredentialKind::Secret,
            id: "1".into(),
            ends: ends_in_days.map(|days| Timestamp::from_secs(0).plus(DAY * (100 + days))),
            refused,
            in_use: false,
        }
    }

    #[test]
    fn the_best_credential_of_ours_decides() {
        let now = Timestamp::from_secs(0).plus(DAY * 100);
        let ended = CredentialFacts {
            ends: Some(now.minus(DAY)),
            ..credential(None, false)
        };
        for (all, state, why) in [
            (vec![credential(None, false)], Condition::Ok, ""),
            (
                vec![ended.clone(), credential(Some(90), false)],
                Condition::Ok,
                "",
            ),
            // The next one is there: that the first one ends is as planned.
            (
                vec![credential(Some(2), false), credential(Some(90), false)],
                Condition::Ok,
                "",
            ),
            (
                vec![credential(Some(2), false)],
                Condition::Degraded,
                "ends in 2 days",
            ),
            (
                vec![credential(Some(1), false), credential(Some(90), true)],
                Condition::Degraded,
                "ends in 1 day",
            ),
            (
                vec![credential(None, true)],
                Condition::Degraded,
                "refuses every",
            ),
            (vec![ended], Condition::Failed, "has ended"),
        ] {
            let check = credentials(&all, now);
            assert_eq!(check.state, state, "{all:?}");
            assert!(check.why.unwrap_or_default().contains(why), "{all:?}");
        }
    }

    #[test]
    fn the_worst_decides_and_what_is_degraded_is_served() {
        let status = |checks: Vec<Check>| Report::of(checks).into_response().status();
        assert_eq!(status(vec![]), StatusCode::OK);
        let degraded = Check::degraded("a", "why");
        assert_eq!(
            status(vec![Check::ok("b"), degraded.clone()]),
            StatusCode::OK
        );
        let failed = Check::failed("c", "why");
        assert_eq!(
            status(vec![degraded, failed]),
            StatusCode::SERVICE_UNAVAILABLE
        );
    }
}
