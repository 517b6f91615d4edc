//! Access tokens of tenants: kept in memory, renewed ahead of time, one renewal at a time per tenant.
//!
//! Invariants: no refresh token is sent to Microsoft before the try is noted in the store; a new refresh token is stored before the
//! access token that came with it is used. Renewal runs in a task of its own, so that no caller that gives up can tear it in two.
//! After a failure nobody asks again for half a minute. Not more than [`PER_SECOND`] renewals begin in a second.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::store::{ConnectionKind, Intent, SealedRefreshToken, Store, StoreError};
use crate::clock::Clock;
use crate::microsoft::{AccessToken, Entra, MicrosoftError, Recovery};
use crate::model::{Cause, TenantId, Timestamp};
use crate::park;
use crate::secret::{KeyRing, SealError, SealedAt, Secret, random_bytes};
use crate::supervise::Supervisor;

/// A failed renewal is everybody's answer for this long. `security-and-faults.md` §6, single-flight.
const FAILURE_KEPT: Duration = Duration::from_secs(30);

/// A refusal that does not pass by itself is met with this much patience while the token held still works.
const REFUSAL_KEPT: Duration = Duration::from_hours(1);

/// A token with less life than this is not used any more.
const LAST_MOMENT: Duration = Duration::from_secs(30);

/// A token younger than this that Graph refuses is not replaced: a second one would be refused as well, and Entra counts.
const YOUNG: Duration = Duration::from_mins(1);

/// Renewals that begin in a second, over all tenants: so a restart, or many tokens that end together, are no burst.
/// `security-and-faults.md` §6.
pub const PER_SECOND: u32 = 20;

/// After so many interrupted tries in a row for one tenant somebody has to look. `security-and-faults.md` §6.
const WORRYING_TRIES: u32 = 3;

/// Why there is no access token.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TokenError {
    /// Entra gave none.
    #[error("Microsoft gave no access token")]
    Microsoft(#[source] Arc<MicrosoftError>),
    /// A renewal was interrupted on our side, and since then Entra refuses every refresh token we hold.
    #[error("a renewal was interrupted, and Microsoft refuses the refresh tokens from before it")]
    LostInRenewal(#[source] Arc<MicrosoftError>),
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
            Self::LostInRenewal(e) => match e.recovery() {
                Recovery::Reauthorize(cause) => Recovery::Reauthorize(Cause {
                    text: "Our service was interrupted while it renewed the access, and Microsoft does not accept the one from before any more."
                        .into(),
                    remedy: "A new sign-in is needed: connect the organisation again.".into(),
                    code: cause.code,
                }),
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
    /// The renewal under way, and its number: one that was forgotten must not write here any more.
    renewal: Option<(u64, Renewal)>,
    failure: Option<(TokenError, Timestamp)>,
}

/// Lets the many go one after the other.
#[derive(Debug)]
struct Pace {
    next: Instant,
}

impl Pace {
    /// When the next one may go.
    fn take(&mut self, now: Instant) -> Instant {
        let at = self.next.max(now);
        self.next = at + Duration::from_secs(1) / PER_SECOND;
        at
    }
}

/// The access tokens of all tenants.
pub struct Tokens {
    store: Store,
    keys: Arc<KeyRing>,
    entra: Entra,
    clock: Clock,
    supervisor: Supervisor,
    slots: Mutex<HashMap<TenantId, Slot>>,
    renewals: AtomicU64,
    pace: Mutex<Pace>,
    rng: Mutex<fastrand::Rng>,
}

impl Tokens {
    /// With no token yet.
    pub fn new(
        store: Store,
        keys: Arc<KeyRing>,
        entra: Entra,
        clock: Clock,
        supervisor: Supervisor,
        seed: u64,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            keys,
            entra,
            clock,
            supervisor,
            slots: Mutex::default(),
            renewals: AtomicU64::new(0),
            pace: Mutex::new(Pace {
                next: Instant::now(),
            }),
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
            self.renewal(slot, tenant, kind, now)?
        };
        renewal.await
    }

    /// Makes sure that Microsoft has given a token for this tenant within this time, whether anybody needs one or not.
    pub async fn exercise(
        self: &Arc<Self>,
        tenant: TenantId,
        kind: ConnectionKind,
        within: Duration,
    ) -> Result<(), TokenError> {
        let renewal = {
            let now = self.clock.now();
            let mut slots = self.slots();
            let slot = slots.entry(tenant).or_default();
            if let Some(held) = &slot.held
                && held.received_at.until(now) < within
            {
                return Ok(());
            }
            self.renewal(slot, tenant, kind, now)?
        };
        renewal.await.map(drop)
    }

    /// The renewal under way, or a new one; unless one has failed just now.
    fn renewal(
        self: &Arc<Self>,
        slot: &mut Slot,
        tenant: TenantId,
        kind: ConnectionKind,
        now: Timestamp,
    ) -> Result<Renewal, TokenError> {
        if let Some((_, renewal)) = &slot.renewal {
            return Ok(renewal.clone());
        }
        if let Some((failure, at)) = &slot.failure
            && at.until(now) < FAILURE_KEPT
        {
            return Err(failure.clone());
        }
        let (number, renewal) = self.start_renewal(tenant, kind);
        slot.renewal = Some((number, renewal.clone()));
        Ok(renewal)
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

    /// Forgets everything about tenants that are not served any more.
    pub fn forget_all_but(&self, is_served: impl Fn(TenantId) -> bool) {
        self.slots().retain(|tenant, _| is_served(*tenant));
    }

    /// Whether anything is held about a tenant.
    pub fn knows(&self, tenant: TenantId) -> bool {
        self.slots().contains_key(&tenant)
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<TenantId, Slot>> {
        self.slots
            .lock()
            .expect("nothing panics while holding the tokens")
    }

    fn start_renewal(self: &Arc<Self>, tenant: TenantId, kind: ConnectionKind) -> (u64, Renewal) {
        let number = self.renewals.fetch_add(1, Ordering::Relaxed);
        let turn = self
            .pace
            .lock()
            .expect("nothing panics while holding the pace")
            .take(Instant::now());
        let (tell, told) = oneshot::channel();
        let this = Arc::clone(self);
        self.supervisor.run_once("token renewal", async move {
            tokio::time::sleep_until(turn).await;
            let outcome = this.renew(tenant, kind).await.map(|token| {
                let now = this.clock.now();
                Arc::new(Held {
                    renew_at: this.renew_at(&token, now),
                    token,
                    received_at: now,
                })
            });
            this.settle(tenant, number, &outcome);
            let _ = tell.send(outcome);
        });
        let renewal = told
            .map(|told| told.unwrap_or(Err(TokenError::Interrupted)))
            .boxed()
            .shared();
        (number, renewal)
    }

    /// Keeps what a renewal brought, unless the tenant was forgotten meanwhile.
    fn settle(&self, tenant: TenantId, number: u64, outcome: &Result<Arc<Held>, TokenError>) {
        let now = self.clock.now();
        if let Err(failure) = outcome {
            tracing::warn!(tenant.id = %tenant, error = %chain(failure), "no access token");
        }
        let mut slots = self.slots();
        let Some(slot) = slots
            .get_mut(&tenant)
            .filter(|slot| matches!(slot.renewal, Some((current, _)) if current == number))
        else {
            return;
        };
        slot.renewal = None;
        match outcome {
            Ok(held) => {
                slot.held = Some(Arc::clone(held));
                slot.failure = None;
            }
            Err(failure) => slot.failure = Some((failure.clone(), now)),
        }
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
            ConnectionKind::ServiceAccount => self.renew_by_refresh_token(tenant).await,
        }
    }

    /// With the stored refresh token. Refused, what was stored meanwhile is tried, or else the token before: after a crash between two
    /// writes it may be the one that works.
    async fn renew_by_refresh_token(&self, tenant: TenantId) -> Result<AccessToken, TokenError> {
        let row = self.stored(tenant).await?;
        let mut refused = match self.refresh(tenant, &row, Which::Current).await {
            Err(TokenError::Microsoft(e)) if asks_for_a_sign_in(&e) => e,
            outcome => return outcome,
        };
        let mut now_stored = self.stored(tenant).await?;
        if now_stored.sealed != row.sealed {
            refused = match self.refresh(tenant, &now_stored, Which::Current).await {
                Err(TokenError::Microsoft(e)) if asks_for_a_sign_in(&e) => e,
                outcome => return outcome,
            };
            now_stored = self.stored(tenant).await?;
        }
        if now_stored.previous.is_some() {
            match self.refresh(tenant, &now_stored, Which::Previous).await {
                Err(TokenError::Microsoft(e)) if asks_for_a_sign_in(&e) => {}
                outcome => return outcome,
            }
        }
        if now_stored.interrupted > 0 && refused.refuses_the_token() {
            tracing::error!(
                tenant.id = %tenant, custody.interrupted = now_stored.interrupted,
                "a refresh token was lost: a renewal was interrupted, and Microsoft refuses the token from before it"
            );
            return Err(TokenError::LostInRenewal(refused));
        }
        Err(TokenError::Microsoft(refused))
    }

    async fn stored(&self, tenant: TenantId) -> Result<SealedRefreshToken, TokenError> {
        let row = self.store.refresh_token(tenant).await;
        row.map_err(store_failed)?.ok_or(TokenError::Missing)
    }

    /// Trades a stored refresh token for new tokens and stores what came. In this order: note the try, ask, store; the note goes with
    /// the write of the new token. Nothing is asked when the note cannot be written.
    async fn refresh(
        &self,
        tenant: TenantId,
        row: &SealedRefreshToken,
        which: Which,
    ) -> Result<AccessToken, TokenError> {
        let (sealed, generation) = match which {
            Which::Current => (&row.sealed, row.generation),
            Which::Previous => (
                row.previous.as_ref().ok_or(TokenError::Missing)?,
                row.generation - 1,
            ),
        };
        let key = self
            .keys
            .open_data_key(tenant, &row.data_key)
            .map_err(seal_failed)?;
        let plain = key
            .open(refresh_token_at(tenant, generation), sealed)
            .map_err(seal_failed)?;
        let old = std::str::from_utf8(&plain).map_err(|_| seal_failed(SealError::DoesNotOpen))?;
        let intent = Intent {
            tenant,
            generation: row.generation,
            id: random_bytes(),
            at: self.clock.now(),
        };
        park::here("refresh::before_intent").await;
        let interrupted = self.store.begin_refresh(intent).await;
        // Replaced meanwhile: the next try reads what is there then.
        let interrupted = interrupted
            .map_err(store_failed)?
            .ok_or(TokenError::Interrupted)?;
        if interrupted > row.interrupted {
            tell_interrupted(tenant, interrupted);
        }
        park::here("refresh::after_intent").await;
        let answer = self.entra.refresh(tenant, &Secret::new(old)).await;
        park::here("refresh::after_response").await;
        let refreshed = match answer {
            Ok(refreshed) => refreshed,
            Err(e) => {
                // Without an answer Microsoft may have given a new token that we do not have: the note stays.
                if !e.leaves_doubt()
                    && let Err(e) = self.store.end_refresh(intent).await
                {
                    tracing::error!(tenant.id = %tenant, error = %chain(&e), "the end of a renewal was not noted");
                }
                return Err(TokenError::Microsoft(Arc::new(e)));
            }
        };
        let stored = match &refreshed.refresh_token {
            Some(new) => {
                let place = refresh_token_at(tenant, row.generation + 1);
                let sealed = key.seal(place, new.expose().as_bytes());
                let now = self.clock.now();
                self.store.replace_refresh_token(intent, &sealed, now).await
            }
            None => self.store.keep_refresh_token(intent).await,
        };
        park::here("refresh::after_commit").await;
        if !stored.map_err(store_failed)? {
            // The credential was replaced meanwhile, by a new authorization: that one counts.
            return Err(TokenError::Interrupted);
        }
        Ok(refreshed.access)
    }
}

/// Which of the two stored refresh tokens.
#[derive(Debug, Clone, Copy)]
enum Which {
    Current,
    Previous,
}

fn asks_for_a_sign_in(error: &MicrosoftError) -> bool {
    matches!(error.recovery(), Recovery::Reauthorize(_))
}

fn tell_interrupted(tenant: TenantId, tries: u32) {
    if tries.is_multiple_of(WORRYING_TRIES) {
        tracing::error!(tenant.id = %tenant, custody.interrupted = tries, "renewals do not come to an end, again and again");
    } else {
        tracing::warn!(tenant.id = %tenant, custody.interrupted = tries, "the last renewal did not come to an end");
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

#[cfg(test)]
mod tests;
