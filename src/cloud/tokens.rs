//! Access tokens of tenants: kept in memory, renewed ahead of time, one renewal at a time per tenant.
//!
//! Invariants: a new refresh token is stored before the access token that came with it is used. Renewal runs in a task of its own,
//! so that no caller that gives up can tear it in two. After a failure nobody asks again for half a minute.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use tokio::sync::oneshot;

use super::store::{ConnectionKind, Store, StoreError};
use crate::clock::Clock;
use crate::microsoft::{AccessToken, Entra, MicrosoftError, Recovery};
use crate::model::{Cause, TenantId, Timestamp};
use crate::secret::{DataKey, KeyEncryptionKey, SealError, SealedAt, Secret};
use crate::supervise::Supervisor;

/// A failed renewal is everybody's answer for this long. `security-and-faults.md` §6, single-flight.
const FAILURE_KEPT: Duration = Duration::from_secs(30);

/// A refusal that does not pass by itself is met with this much patience while the token held still works.
const REFUSAL_KEPT: Duration = Duration::from_hours(1);

/// A token with less life than this is not used any more.
const LAST_MOMENT: Duration = Duration::from_secs(30);

/// A token younger than this that Graph refuses is not replaced: a second one would be refused as well, and Entra counts.
const YOUNG: Duration = Duration::from_mins(1);

/// Why there is no access token.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TokenError {
    /// Entra gave none.
    #[error("Microsoft gave no access token")]
    Microsoft(#[source] Arc<MicrosoftError>),
    /// The store failed.
    #[error("the stored credential cannot be used")]
    Store(#[source] Arc<StoreError>),
    /// The stored credential does not open.
    #[error("the stored credential cannot be opened")]
    Seal(#[source] Arc<SealError>),
    /// There is no stored credential.
    #[error("there is no stored credential for this tenant")]
    Missing,
    /// The renewal did not come to an end.
    #[error("the renewal was interrupted")]
    Interrupted,
}

impl TokenError {
    /// How long nobody asks ahead of time after it.
    fn kept(&self) -> Duration {
        match self.recovery() {
            Recovery::Retry { after } | Recovery::Throttled { after } => {
                after.unwrap_or_default().max(FAILURE_KEPT)
            }
            _ => REFUSAL_KEPT,
        }
    }

    /// What to do.
    pub fn recovery(&self) -> Recovery {
        match self {
            Self::Microsoft(e) => match e.recovery() {
                // At the token endpoint there is nothing to split and no token to refresh.
                Recovery::Split | Recovery::FreshToken { .. } => Recovery::Retry { after: None },
                other => other,
            },
            Self::Interrupted => Recovery::Retry { after: None },
            Self::Store(_) | Self::Seal(_) => Recovery::OurFault {
                cause: Cause {
                    text: "There is a problem on our side; our team has been alerted.".into(),
                    remedy: "You need not do anything.".into(),
                    code: String::new(),
                },
                for_all: false,
            },
            Self::Missing => Recovery::Reauthorize(Cause {
                text: "There is no authorization for this organisation.".into(),
                remedy: "Connect the organisation again.".into(),
                code: String::new(),
            }),
        }
    }
}

type Renewal = Shared<BoxFuture<'static, Result<Arc<Held>, TokenError>>>;

/// An access token in use.
#[derive(Debug)]
pub struct Held {
    /// The token.
    pub token: AccessToken,
    received_at: Timestamp,
    renew_at: Timestamp,
}

#[derive(Default)]
struct Slot {
    held: Option<Arc<Held>>,
    renewal: Option<Renewal>,
    failure: Option<(TokenError, Timestamp)>,
}

/// The access tokens of all tenants.
pub struct Tokens {
    store: Store,
    key: KeyEncryptionKey,
    entra: Entra,
    clock: Clock,
    supervisor: Supervisor,
    slots: Mutex<HashMap<TenantId, Slot>>,
    rng: Mutex<fastrand::Rng>,
}

impl Tokens {
    /// With no token yet.
    pub fn new(
        store: Store,
        key: KeyEncryptionKey,
        entra: Entra,
        clock: Clock,
        supervisor: Supervisor,
        seed: u64,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            key,
            entra,
            clock,
            supervisor,
            slots: Mutex::default(),
            rng: Mutex::new(fastrand::Rng::with_seed(seed)),
        })
    }

    /// A usable access token of a tenant.
    pub async fn access(
        self: &Arc<Self>,
        tenant: TenantId,
        kind: ConnectionKind,
    ) -> Result<Arc<Held>, TokenError> {
        let renewal = {
            let now = self.clock.now();
            let mut slots = self.slots();
            let slot = slots.entry(tenant).or_default();
            let usable = slot
                .held
                .clone()
                .filter(|held| now.until(held.token.expires_at) > LAST_MOMENT);
            if let Some(held) = usable {
                if now >= held.renew_at && slot.may_renew(now) {
                    // Ahead of time: nobody waits for it, and its failure is nobody's yet.
                    slot.renewal = Some(self.start_renewal(tenant, kind));
                }
                return Ok(held);
            }
            if let Some(renewal) = &slot.renewal {
                renewal.clone()
            } else {
                if let Some((failure, at)) = &slot.failure
                    && at.until(now) < FAILURE_KEPT
                {
                    return Err(failure.clone());
                }
                let renewal = self.start_renewal(tenant, kind);
                slot.renewal = Some(renewal.clone());
                renewal
            }
        };
        renewal.await
    }

    /// Graph refused this token. True when the next [`Tokens::access`] gives another one.
    pub fn refused(&self, tenant: TenantId, refused: &Arc<Held>) -> bool {
        let now = self.clock.now();
        let mut slots = self.slots();
        let slot = slots.entry(tenant).or_default();
        match &slot.held {
            Some(held) if Arc::ptr_eq(held, refused) => {
                if held.received_at.until(now) < YOUNG {
                    return false;
                }
                slot.held = None;
                true
            }
            _ => true,
        }
    }

    /// The tenant's credential was replaced or taken away: whatever is held is forgotten.
    pub fn forget(&self, tenant: TenantId) {
        self.slots().remove(&tenant);
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<TenantId, Slot>> {
        self.slots
            .lock()
            .expect("nothing panics while holding the tokens")
    }

    fn start_renewal(self: &Arc<Self>, tenant: TenantId, kind: ConnectionKind) -> Renewal {
        let (tell, told) = oneshot::channel();
        let this = Arc::clone(self);
        self.supervisor.run_once("token renewal", async move {
            let outcome = this.renew(tenant, kind).await.map(|token| {
                let now = this.clock.now();
                Arc::new(Held {
                    renew_at: this.renew_at(&token, now),
                    token,
                    received_at: now,
                })
            });
            let now = this.clock.now();
            let mut slots = this.slots();
            let slot = slots.entry(tenant).or_default();
            slot.renewal = None;
            match &outcome {
                Ok(held) => {
                    slot.held = Some(Arc::clone(held));
                    slot.failure = None;
                }
                Err(failure) => {
                    tracing::warn!(tenant.id = %tenant, error = %chain(failure), "no access token");
                    slot.failure = Some((failure.clone(), now));
                }
            }
            drop(slots);
            let _ = tell.send(outcome);
        });
        told.map(|told| told.unwrap_or(Err(TokenError::Interrupted)))
            .boxed()
            .shared()
    }

    /// Half of the token's life, a tenth of it more or less. `security-and-faults.md` §6.
    fn renew_at(&self, token: &AccessToken, now: Timestamp) -> Timestamp {
        let jitter = self
            .rng
            .lock()
            .expect("nothing panics while holding the generator")
            .f64();
        now.plus(now.until(token.expires_at).mul_f64(0.45 + jitter / 10.0))
    }

    async fn renew(
        &self,
        tenant: TenantId,
        kind: ConnectionKind,
    ) -> Result<AccessToken, TokenError> {
        match kind {
            ConnectionKind::Organisation => self
                .entra
                .app_token(tenant)
                .await
                .map_err(|e| TokenError::Microsoft(Arc::new(e))),
            ConnectionKind::ServiceAccount => {
                let key = self.data_key(tenant).await?;
                match self.refresh(tenant, &key, false).await {
                    // Another may have stored a newer one, or the one before may still work after a crash between two writes.
                    Err(TokenError::Microsoft(e))
                        if matches!(e.recovery(), Recovery::Reauthorize(_)) =>
                    {
                        self.refresh(tenant, &key, true)
                            .await
                            .map_err(|_| TokenError::Microsoft(e))
                    }
                    outcome => outcome,
                }
            }
        }
    }

    async fn data_key(&self, tenant: TenantId) -> Result<DataKey, TokenError> {
        let wrapped = self
            .store
            .data_key(tenant)
            .await
            .map_err(store_failed)?
            .ok_or(TokenError::Missing)?;
        self.key
            .open_data_key(tenant, &wrapped)
            .map_err(seal_failed)
    }

    /// Trades the stored refresh token, or the one before it, for new tokens and stores what came.
    async fn refresh(
        &self,
        tenant: TenantId,
        key: &DataKey,
        the_one_before: bool,
    ) -> Result<AccessToken, TokenError> {
        let row = self
            .store
            .refresh_token(tenant)
            .await
            .map_err(store_failed)?
            .ok_or(TokenError::Missing)?;
        let (sealed, generation) = if the_one_before {
            (
                row.previous.as_ref().ok_or(TokenError::Missing)?,
                row.generation - 1,
            )
        } else {
            (&row.sealed, row.generation)
        };
        let plain = key
            .open(refresh_token_at(tenant, generation), sealed)
            .map_err(seal_failed)?;
        let old = std::str::from_utf8(&plain).map_err(|_| seal_failed(SealError::DoesNotOpen))?;
        let refreshed = self
            .entra
            .refresh(tenant, &Secret::new(old))
            .await
            .map_err(|e| TokenError::Microsoft(Arc::new(e)))?;
        if let Some(new) = &refreshed.refresh_token {
            let sealed = key.seal(
                refresh_token_at(tenant, row.generation + 1),
                new.expose().as_bytes(),
            );
            let now = self.clock.now();
            let stored = self
                .store
                .replace_refresh_token(tenant, row.generation, &sealed, now)
                .await
                .map_err(store_failed)?;
            if !stored {
                // The credential was replaced meanwhile, by a new authorization: that one counts.
                return Err(TokenError::Interrupted);
            }
        }
        Ok(refreshed.access)
    }
}

impl Slot {
    fn may_renew(&self, now: Timestamp) -> bool {
        self.renewal.is_none()
            && self
                .failure
                .as_ref()
                .is_none_or(|(failure, at)| at.until(now) >= failure.kept())
    }
}

/// Where a refresh token is sealed.
pub fn refresh_token_at(tenant: TenantId, generation: i64) -> SealedAt<'static> {
    SealedAt {
        tenant,
        table: "refresh_tokens",
        column: "sealed",
        row: "",
        generation,
    }
}

fn store_failed(e: StoreError) -> TokenError {
    TokenError::Store(Arc::new(e))
}

fn seal_failed(e: SealError) -> TokenError {
    TokenError::Seal(Arc::new(e))
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
