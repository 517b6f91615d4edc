//! A world in a temporary folder, and waiters over what a suite holds. Never a sleep: always "until it is so".

use std::ops::Deref;
use std::time::Duration;

use presence_bridge::agent::uplink::UplinkHandle;
use presence_bridge::agent::view::TenantStatus;
use presence_bridge::clock::Clock;
use presence_bridge::cloud::store::ConnectionKind;
use presence_bridge::model::CoverageState;
use presence_bridge::simulator::{Endpoint, Tenant, TenantSpec};
use presence_bridge::world::{Suite, World, WorldSettings};

use super::scan;

/// Longer than anything takes, also the longest pause (a minute) after some failures in a row; reached only when something is broken.
const PATIENCE: Duration = Duration::from_secs(90);

pub struct Stage {
    pub world: World,
    _folder: tempfile::TempDir,
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            scan::nothing_was_found();
        }
    }
}

impl Deref for Stage {
    type Target = World;
    fn deref(&self) -> &World {
        &self.world
    }
}

/// Quick sweeps, so that tests are quick.
pub fn quick() -> WorldSettings {
    WorldSettings {
        interval: Duration::from_millis(150),
        ..WorldSettings::default()
    }
}

impl Stage {
    pub async fn new(settings: WorldSettings) -> Self {
        scan::init();
        let folder = tempfile::tempdir().unwrap();
        let world = World::start(folder.path(), settings).await.unwrap();
        Self {
            world,
            _folder: folder,
        }
    }

    pub async fn tenant(&self, domain: &str, people: usize) -> Tenant {
        self.tenant_by(domain, people, ConnectionKind::Organisation)
            .await
    }

    pub async fn tenant_by(&self, domain: &str, people: usize, kind: ConnectionKind) -> Tenant {
        let spec = TenantSpec {
            domain: domain.into(),
            name: domain.into(),
            people,
            ..TenantSpec::default()
        };
        self.add_tenant(spec, kind).await.unwrap()
    }

    /// A suite that watches everybody of a tenant. Its events are thrown away; what it holds is looked at.
    pub async fn watching_all(&self, tenant: &Tenant, name: &str) -> Watcher {
        self.watching(tenant, name, upns(tenant)).await
    }

    pub async fn watching(&self, tenant: &Tenant, name: &str, upns: Vec<String>) -> Watcher {
        Watcher::new(self.suite(tenant, name, upns).await.unwrap())
    }

    /// Presence requests so far.
    pub fn presence_requests(&self, tenant: &Tenant) -> u64 {
        self.microsoft
            .requests()
            .of(tenant.id(), Endpoint::Presence)
            .total
    }
}

pub fn upns(tenant: &Tenant) -> Vec<String> {
    tenant.people().iter().map(|p| p.upn.clone()).collect()
}

/// A running suite whose events are read.
pub struct Watcher {
    pub handle: UplinkHandle,
    _drain: tokio_util::task::AbortOnDropHandle<()>,
}

impl Watcher {
    pub fn new(suite: Suite) -> Self {
        let handle = suite.handle.clone();
        #[allow(
            clippy::disallowed_methods,
            reason = "aborted when the watcher is dropped"
        )]
        let drain = tokio::spawn(async move {
            // Takes the whole suite, not only its events: it runs as long as this task.
            let mut suite = suite;
            while suite.events.recv().await.is_some() {}
        });
        Self {
            handle,
            _drain: tokio_util::task::AbortOnDropHandle::new(drain),
        }
    }

    /// Availability as held: Microsoft's word, or "" without a value.
    pub fn holds(&self, upn: &str) -> String {
        let view = self.handle.view();
        let value = view.person(upn).and_then(|p| p.value.as_ref());
        value
            .map(|v| v.presence.availability.as_str().to_owned())
            .unwrap_or_default()
    }

    pub fn is_fresh(&self, upn: &str) -> bool {
        let view = self.handle.view();
        view.person(upn)
            .is_some_and(|p| view.is_fresh(p, Clock::system().now()))
    }

    pub fn coverage(&self, upn: &str) -> Option<CoverageState> {
        let view = self.handle.view();
        view.person(upn)
            .and_then(|p| p.coverage.as_ref())
            .map_or(Some(CoverageState::Monitored), |c| c.state)
    }

    pub fn status(&self) -> Option<TenantStatus> {
        self.handle.view().tenant().cloned()
    }

    pub async fn until_holds(&self, upn: &str, availability: &str) {
        until(&format!("{availability} is held"), || {
            self.holds(upn) == availability
        })
        .await;
    }

    pub async fn until_covers(&self, upn: &str, state: CoverageState) {
        until(&format!("coverage is {state:?}"), || {
            self.coverage(upn) == Some(state)
        })
        .await;
    }

    pub async fn until_state(&self, state: &str) {
        until(&format!("the tenant is {state}"), || {
            self.status().is_some_and(|s| s.state == state)
        })
        .await;
    }

    /// Everybody watched is held and fresh.
    pub async fn until_all_fresh(&self) {
        until("everybody is fresh", || {
            let counts = self.handle.view().counts(Clock::system().now());
            counts.watched > 0 && counts.fresh == counts.watched
        })
        .await;
    }
}

/// Waits until something is so.
pub async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "it never came about that {what}");
}
