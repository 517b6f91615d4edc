//! Access tokens of tenants: kept in memory, renewed ahead of time, one renewal at a time per tenant.
//!
//! Invariants: no refresh token is sent to Microsoft before the try is noted in the store; a new refresh token is stored before the
//! access token that came with it is used. Renewal runs in a task of its own, so that no caller that gives up can tear it in two.
//! After a failure nobody asks again before [`Failure::not_before`]; ahead of time, ever more rarely. A renewal of a tenant that was
//! forgotten meanwhile leaves nothing behind. Not more than [`PER_SECOND`] renewals begin in a second.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::metrics::Metrics;
use super::poller::breaker::{Breaker, BreakerState};
use super::store::{ConnectionKind, Intent, SealedRefreshToken, Store, StoreError};
use crate::clock::Clock;
use crate::microsoft::{AccessToken, Entra, MicrosoftError, Recovery};
use crate::model::{Cause, TenantId, Timestamp};
use crate::park;
use crate::secret::{KeyRing, SealError, SealedAt, Secret, random_bytes};
use crate::supervise::Supervisor;

/// A failed renewal is everybody's answer for this long. `security-and-faults.md` §6, single-flight.
const FAILURE_KEPT: Duration = Duration::from_secs(30);

/// Ahead of time, a failure that may pass is kept for [`FAILURE_KEPT`], doubling up to this.
const MOST_KEPT_AHEAD: Duration = Duration::from_mins(5);

/// No time told by Microsoft counts for more.
const MOST_TOLD: Duration = Duration::from_hours(1);

/// A refusal that does not pass by itself answers those who ask together; when to try again is for the health to say.
const REFUSAL_ANSWERS: Duration = Duration::from_secs(1);

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

/// A renewal that brought no token: the answer to everybody, until it is worth asking again.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Why.
    pub error: TokenError,
    /// The renewal it was: several callers may be told of the same one.
    pub attempt: u64,
    /// Nobody asks again before.
    pub not_before: Timestamp,
}

impl TokenError {
    /// Whether it does not pass by itself.
    fn is_definitive(&self) -> bool {
        !matches!(
            self.recovery(),
            Recovery::Retry { .. } | Recovery::Throttled { .. }
        )
    }

    /// How long nobody asks at all after it.
    fn kept(&self) -> Duration {
        match self.recovery() {
            Recovery::Retry { after } | Recovery::Throttled { after } => {
                after.unwrap_or_default().clamp(FAILURE_KEPT, MOST_TOLD)
            }
            _ => REFUSAL_ANSWERS,
        }
    }

    /// How long nobody asks ahead of time after it, the `nth` failure in a row.
    fn kept_ahead(&self, nth: u32) -> Duration {
        if self.is_definitive() {
            return REFUSAL_KEPT;
        }
        let wait = FAILURE_KEPT.saturating_mul(1 << nth.saturating_sub(1).min(8));
        wait.min(MOST_KEPT_AHEAD).max(self.kept())
    }

    /// Under which Microsoft finds the request.
    pub fn correlation_id(&self) -> Option<&str> {
        match self {
            Self::Microsoft(e) | Self::LostInRenewal(e) => e.correlation_id(),
            _ => None,
        }
    }

    /// What Microsoft says of a failure that passes, if it says more than that it failed.
    pub fn passing_cause(&self) -> Option<Cause> {
        match self {
            Self::Microsoft(e) => e.passing_cause(),
            _ => None,
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
                    correlation_id: String::new(),
                }),
                other => other,
            },
            Self::Interrupted => Recovery::Retry { after: None },
            Self::Store(_) | Self::Seal(_) => Recovery::OurFault {
                cause: Cause {
                    text: "There is a problem on our side; our team has been alerted.".into(),
                    remedy: "You need not do anything.".into(),
                    code: String::new(),
                    correlation_id: String::new(),
                },
                for_all: false,
            },
            Self::Missing => Recovery::Reauthorize(Cause {
                text: "There is no authorization for this organisation.".into(),
                remedy: "Connect the organisation again.".into(),
                code: String::new(),
                correlation_id: String::new(),
            }),
        }
    }
}

type Renewal = Shared<BoxFuture<'static, Result<Arc<Held>, Failure>>>;

/// An access token in use.
#[derive(Debug)]
pub struct Held {
    /// The token.
    pub token: AccessToken,
    /// The renewal that brought it.
    pub attempt: u64,
    received_at: Timestamp,
    renew_at: Timestamp,
}

/// What may be told about a tenant's access token.
#[derive(Debug, Clone, Default)]
pub struct AccessFigures {
    /// When the token held was given; `None`: none is held.
    pub received_at: Option<Timestamp>,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    /// Renewals that have failed in a row.
    pub failures: u32,
    /// Whether Microsoft may be asked for another.
    pub breaker: BreakerState,
}

#[derive(Default)]
struct Slot {
    /// Opened by a renewal that failed; who needs a token meanwhile gets the failure. Half-open, the renewal that everybody waits for
    /// decides.
    breaker: Breaker<Timestamp>,
    held: Option<Arc<Held>>,
    /// The renewal under way, and its number: one that was forgotten must not write here any more.
    renewal: Option<(u64, Renewal)>,
    /// The last renewal failed.
    failure: Option<Failure>,
    /// So many failed in a row.
    failures: u32,
    /// Nobody asks ahead of time before.
    ahead_not_before: Timestamp,
    /// With the refresh token of this generation stored, Entra has refused the one before it.
    previous_refused: Option<i64>,
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
    metrics: Arc<Metrics>,
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
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            metrics,
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
    ) -> Result<Arc<Held>, Failure> {
        let renewal = {
            let now = self.clock.now();
            let mut slots = self.slots();
            let slot = slots.entry(tenant).or_default();
            if let Some(held) = slot.usable(now).cloned() {
                if now >= held.renew_at && slot.may_renew(now) {
                    // Ahead of time: nobody waits for it. What it means that it fails is told by [`Tokens::warning`].
                    slot.renewal = Some(self.start_renewal(tenant, kind));
                }
                return Ok(held);
            }
            self.renewal(slot, tenant, kind, now)?
        };
        renewal.await
    }

    /// Makes sure that Microsoft has given a token for this tenant within this time, whether anybody needs one or not. A token that
    /// has ended proves nothing once a renewal has failed.
    pub async fn exercise(
        self: &Arc<Self>,
        tenant: TenantId,
        kind: ConnectionKind,
        within: Duration,
    ) -> Result<(), Failure> {
        let renewal = {
            let now = self.clock.now();
            let mut slots = self.slots();
            let slot = slots.entry(tenant).or_default();
            if let Some(held) = &slot.held
                && held.received_at.until(now) < within
                && (slot.failure.is_none() || slot.usable(now).is_some())
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
    ) -> Result<Renewal, Failure> {
        if let Some((_, renewal)) = &slot.renewal {
            return Ok(renewal.clone());
        }
        if let Some(failure) = &slot.failure
            && slot.breaker.state(now) == BreakerState::Open
        {
            return Err(failure.clone());
        }
        let (number, renewal) = self.start_renewal(tenant, kind);
        slot.renewal = Some((number, renewal.clone()));
        Ok(renewal)
    }

    /// The token held still works, but the next will not come by itself: why.
    pub fn warning(&self, tenant: TenantId) -> Option<Failure> {
        let now = self.clock.now();
        let slots = self.slots();
        let slot = slots.get(&tenant)?;
        slot.usable(now)?;
        slot.failure.clone().filter(|f| f.error.is_definitive())
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

    /// What may be told about a tenant's access token.
    pub fn figures(&self, tenant: TenantId) -> AccessFigures {
        let slots = self.slots();
        let Some(slot) = slots.get(&tenant) else {
            return AccessFigures::default();
        };
        AccessFigures {
            received_at: slot.held.as_ref().map(|held| held.received_at),
            expires_at: slot.held.as_ref().map(|held| held.token.expires_at),
            failures: slot.failures,
            breaker: slot.breaker.state(self.clock.now()),
        }
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
            let span = tracing::info_span!("token_renewal", tenant.id = %tenant, connection = kind.as_str());
            let outcome = this.renew(tenant, kind).instrument(span).await;
            this.metrics.renewal(kind, outcome.as_ref().err());
            let now = this.clock.now();
            let outcome = match outcome {
                Ok(token) => Ok(Arc::new(Held {
                    renew_at: this.renew_at(&token, now),
                    token,
                    attempt: number,
                    received_at: now,
                })),
                Err(error) => Err(Failure {
                    not_before: now.plus(this.pause(&error)),
                    error,
                    attempt: number,
                }),
            };
            this.settle(tenant, number, &outcome);
            let _ = tell.send(outcome);
        });
        let not_before = self.clock.now().plus(FAILURE_KEPT);
        let interrupted = Failure {
            error: TokenError::Interrupted,
            attempt: number,
            not_before,
        };
        let renewal = told
            .map(|told| told.unwrap_or(Err(interrupted)))
            .boxed()
            .shared();
        (number, renewal)
    }

    /// Keeps what a renewal brought, unless the tenant was forgotten meanwhile.
    fn settle(&self, tenant: TenantId, number: u64, outcome: &Result<Arc<Held>, Failure>) {
        let now = self.clock.now();
        if let Err(failure) = outcome {
            tracing::warn!(tenant.id = %tenant, error = %chain(&failure.error), "no access token");
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
                slot.breaker.succeeded();
                slot.failure = None;
                slot.failures = 0;
                slot.previous_refused = None;
            }
            Err(failure) => {
                slot.failures = slot.failures.saturating_add(1);
                slot.breaker.failed(failure.not_before);
                slot.ahead_not_before = now.plus(failure.error.kept_ahead(slot.failures));
                slot.failure = Some(failure.clone());
            }
        }
    }

    /// How long the breaker is open: half as long again at most, so that those who failed together do not come back together.
    fn pause(&self, error: &TokenError) -> Duration {
        let jitter = match error.recovery() {
            Recovery::Retry { after: None } | Recovery::Throttled { after: None } => 0.5,
            Recovery::Retry { .. } | Recovery::Throttled { .. } => 0.1,
            _ => 0.0,
        };
        error.kept().mul_f64(1.0 + self.random() * jitter)
    }

    fn random(&self) -> f64 {
        self.rng
            .lock()
            .expect("nothing panics while holding the generator")
            .f64()
    }

    /// Half of the token's life, a tenth of it more or less. `security-and-faults.md` §6.
    fn renew_at(&self, token: &AccessToken, now: Timestamp) -> Timestamp {
        let part = 0.45 + self.random() / 10.0;
        now.plus(now.until(token.expires_at).mul_f64(part))
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
    /// writes it may be the one that works. That only when the token as such is refused, and not again once it was refused itself.
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
        let generation = now_stored.generation;
        if now_stored.previous.is_some()
            && refused.refuses_the_token()
            && !self.was_previous_refused(tenant, generation)
        {
            match self.refresh(tenant, &now_stored, Which::Previous).await {
                Err(TokenError::Microsoft(e)) if asks_for_a_sign_in(&e) => {
                    if let Some(slot) = self.slots().get_mut(&tenant) {
                        slot.previous_refused = Some(generation);
                    }
                }
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

    fn was_previous_refused(&self, tenant: TenantId, generation: i64) -> bool {
        let slots = self.slots();
        let slot = slots.get(&tenant);
        slot.is_some_and(|slot| slot.previous_refused == Some(generation))
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
    fn usable(&self, now: Timestamp) -> Option<&Arc<Held>> {
        let held = self.held.as_ref()?;
        (now.until(held.token.expires_at) > LAST_MOMENT).then_some(held)
    }

    /// Whether a renewal ahead of time may begin.
    fn may_renew(&self, now: Timestamp) -> bool {
        self.renewal.is_none() && (self.failure.is_none() || now >= self.ahead_not_before)
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
