//! The tenants that are being served, and what the operator changes while they are.
//!
//! Active tenants are served from the start, others from the moment a suite of theirs calls. Changes made by the operator with the
//! command line reach a running server through a revision number in the store.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::hub::mailbox::{End, EndReason};
use super::poller::{Shared, Tenant};
use super::pulse::Beat;
use super::store::{Store, StoreError, TenantStatus};
use crate::clock::Clock;
use crate::model::{SuiteId, TenantId};
use crate::supervise::Supervisor;

/// How often the store is asked whether the operator has changed something. A revoked suite loses its streams within this time.
const LOOK_FOR_CHANGES: Duration = Duration::from_secs(1);

/// What is held in memory about a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remembered {
    /// It is being served.
    pub served: bool,
    /// Its access token, or why there is none.
    pub token: bool,
    /// Names whose account is known.
    pub names: usize,
}

/// The tenants that are being served.
pub struct Tenants {
    store: Store,
    shared: Arc<Shared>,
    clock: Clock,
    supervisor: Supervisor,
    seed: u64,
    served: Mutex<HashMap<TenantId, Arc<Tenant>>>,
    /// Held while a tenant is started, so that it is started once.
    starting: tokio::sync::Mutex<()>,
    loaded: AtomicBool,
}

impl Tenants {
    /// None yet.
    pub fn new(
        store: Store,
        shared: Arc<Shared>,
        clock: Clock,
        supervisor: Supervisor,
        seed: u64,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            shared,
            clock,
            supervisor,
            seed,
            served: Mutex::default(),
            starting: tokio::sync::Mutex::new(()),
            loaded: AtomicBool::new(false),
        })
    }

    /// Who looks after tasks.
    pub(super) fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }

    fn served(&self) -> std::sync::MutexGuard<'_, HashMap<TenantId, Arc<Tenant>>> {
        self.served
            .lock()
            .expect("nothing panics while holding the tenants")
    }

    /// A tenant, being served from now on. `None` when there is no such tenant or it is gone.
    pub async fn get(&self, id: TenantId) -> Result<Option<Arc<Tenant>>, StoreError> {
        if let Some(tenant) = self.served().get(&id) {
            return Ok(Some(Arc::clone(tenant)));
        }
        let _one_at_a_time = self.starting.lock().await;
        if let Some(tenant) = self.served().get(&id) {
            return Ok(Some(Arc::clone(tenant)));
        }
        let Some(row) = self.store.tenant(id).await? else {
            return Ok(None);
        };
        if row.status == TenantStatus::Gone {
            return Ok(None);
        }
        let epoch = self.store.next_epoch(id, self.clock.now()).await?;
        let seed = self.seed ^ id.0.as_u64_pair().1;
        let tenant = Tenant::start(row, epoch, Arc::clone(&self.shared), &self.supervisor, seed);
        self.served().insert(id, Arc::clone(&tenant));
        Ok(Some(tenant))
    }

    /// All tenants being served.
    pub fn all(&self) -> Vec<Arc<Tenant>> {
        self.served().values().cloned().collect()
    }

    /// Serves every active tenant that is not served yet.
    pub async fn serve_active(&self, beat: &Beat) -> Result<(), StoreError> {
        for row in self.store.tenants().await? {
            beat.beat();
            if row.status == TenantStatus::Active {
                self.get(row.id).await?;
            }
        }
        self.loaded.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Forgets the tokens of tenants that are not served any more.
    pub fn forget_strangers(&self) {
        let served = self.served();
        self.shared
            .forget_tokens_of_all_but(|tenant| served.contains_key(&tenant));
    }

    /// The application's own budget: spent in the last window, and allowed in one.
    pub fn application_budget(&self) -> (u32, u32) {
        self.shared.application_budget()
    }

    /// Whether all active tenants have been served at some time since the start.
    pub fn loaded(&self) -> bool {
        self.loaded.load(Ordering::Relaxed)
    }

    /// What is held in memory about a tenant.
    pub fn remembered(&self, tenant: TenantId) -> Remembered {
        Remembered {
            served: self.served().contains_key(&tenant),
            token: self.shared.knows_a_token(tenant),
            names: self.shared.known_names(tenant),
        }
    }

    /// Follows what the operator changes, for ever.
    pub async fn follow_changes(self: Arc<Self>, on_change: impl Fn() + Send + Sync, beat: Beat) {
        let mut seen = None;
        loop {
            beat.beat();
            match self.store.revision().await {
                Ok(revision) if seen == Some(revision) => {}
                Ok(revision) => match self.take_over_changes(&on_change, &beat).await {
                    Ok(()) => seen = Some(revision),
                    Err(e) => {
                        tracing::error!(error = %super::tokens::chain(&e), "changes by the operator not read");
                    }
                },
                Err(e) => {
                    tracing::error!(error = %super::tokens::chain(&e), "changes by the operator not seen");
                }
            }
            tokio::time::sleep(LOOK_FOR_CHANGES).await;
        }
    }

    async fn take_over_changes(
        &self,
        on_change: &impl Fn(),
        beat: &Beat,
    ) -> Result<(), StoreError> {
        on_change();
        for tenant in self.all() {
            beat.beat();
            let Some(row) = self.store.tenant(tenant.id()).await? else {
                continue;
            };
            let suites = self.store.suites(Some(tenant.id())).await?;
            let active: std::collections::HashSet<SuiteId> =
                suites.iter().filter(|s| s.active).map(|s| s.id).collect();
            let gone = row.status == TenantStatus::Gone;
            let reason = if gone {
                EndReason::TenantGone
            } else {
                EndReason::Revoked
            };
            tenant.with_hub(|hub, _, _| {
                hub.end_streams(
                    |suite| gone || !active.contains(&suite),
                    || End {
                        reason,
                        reconnect_after: None,
                    },
                );
            });
            // What was changed elsewhere must not cost this tenant its token, nor end its rest.
            if tenant.row().updated_at != row.updated_at {
                tracing::info!(tenant.id = %tenant.id(), status = row.status.as_str(), "the operator has changed a tenant");
                tenant.changed(row);
            }
            if gone {
                self.served().remove(&tenant.id());
            }
        }
        Ok(())
    }

    /// Ends streams whose suites have stopped reading, for ever.
    pub async fn end_stalled_streams(self: Arc<Self>, limit: Duration) {
        let end = End {
            reason: EndReason::TooSlow,
            reconnect_after: Some(Duration::ZERO),
        };
        loop {
            tokio::time::sleep(limit / 4).await;
            for tenant in self.all() {
                let ended = tenant.with_hub(|hub, _, _| hub.end_stalled(limit, end));
                if ended > 0 {
                    tracing::warn!(tenant.id = %tenant.id(), streams = ended, "ended because nothing was read");
                }
            }
        }
    }

    /// Tells all streams to come back within `spread`, each at a time of its own.
    pub fn send_everybody_away(&self, spread: Duration) {
        let mut rng = fastrand::Rng::with_seed(self.seed);
        for tenant in self.all() {
            tenant.with_hub(|hub, _, _| {
                hub.end_streams(
                    |_| true,
                    || End {
                        reason: EndReason::ShuttingDown,
                        reconnect_after: Some(spread.mul_f64(rng.f64())),
                    },
                );
            });
        }
    }
}
