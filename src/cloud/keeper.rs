//! Keeps connections alive that nobody uses, and looks after what ends by itself.
//!
//! Every active tenant is served from the start, so that its health is known though nobody watches. Each connection is exercised at
//! least once a day: Microsoft ends a refresh token that is never used, and a withdrawn consent shows only when somebody asks.
//! When to exercise is decided in [`due`]; how many at a time, in [`super::tokens`]. Tokens that are not needed any more are wiped,
//! and the ends of our own credentials are told in time.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::time::Instant;

use super::pulse::Beat;
use super::store::Store;
use super::tenants::Tenants;
use super::tokens::chain;
use crate::clock::Clock;
use crate::microsoft::{Ending, Entra};
use crate::model::Timestamp;

/// Longest time without a token from Microsoft, of a connection that nobody uses. `security-and-faults.md` §6.
const AT_LEAST_EVERY: Duration = Duration::from_hours(24);

/// The earliest part of that time at which it is exercised; a jitter says when.
const EARLIEST: f64 = 0.8;

/// A connection from which a token came within this time needs no exercise.
pub(super) const RECENT: Duration = Duration::from_hours(19);

/// Exercises under way at the same time. How many begin in a second is limited with the tokens.
const AT_ONCE: usize = 32;

/// Exercises between two looks at who is due: some seconds.
const AT_A_TIME: usize = 100;

/// How often it is looked who is due, and who has come or gone.
const LOOK: Duration = Duration::from_secs(1);

/// How often it is looked which tokens are to be wiped.
const WIPE_EVERY: Duration = Duration::from_mins(10);

/// A refresh token is kept so long after the one that replaced it was stored; with [`WIPE_EVERY`] it is gone within the hour.
const KEPT_AFTER: Duration = Duration::from_mins(50);

/// How often it is told that a credential of ours is about to end.
const TELL_EVERY: Duration = Duration::from_hours(24);

/// What is known about a tenant when it is decided whether to exercise its connection.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    /// The operator lets it be served.
    pub active: bool,
    /// When it was last exercised, since it was last changed.
    pub exercised_at: Option<Instant>,
    /// The last time, no token came.
    pub without_token: bool,
    /// No call before this.
    pub resting_until: Option<Instant>,
    /// From 0 to 1, another for each time and tenant.
    pub jitter: f64,
}

/// When a connection is to be exercised: at once when it never was, or when no token came and the rest after that is over; else
/// within the day. `None`: not at all.
pub fn due(standing: &Standing, now: Instant) -> Option<Instant> {
    if !standing.active {
        return None;
    }
    let due = match standing.exercised_at {
        Some(at) if !standing.without_token => {
            let part = EARLIEST + (1.0 - EARLIEST) * standing.jitter.clamp(0.0, 1.0);
            at + AT_LEAST_EVERY.mul_f64(part)
        }
        _ => now,
    };
    Some(standing.resting_until.map_or(due, |rest| due.max(rest)))
}

/// Does it, for ever.
pub struct Keeper {
    tenants: Arc<Tenants>,
    store: Store,
    entra: Entra,
    clock: Clock,
    beat: Beat,
}

impl Keeper {
    /// For all tenants of a process.
    pub fn new(
        tenants: Arc<Tenants>,
        store: Store,
        entra: Entra,
        clock: Clock,
        beat: Beat,
    ) -> Self {
        Self {
            tenants,
            store,
            entra,
            clock,
            beat,
        }
    }

    /// Runs until it is dropped.
    pub async fn run(self) {
        tokio::join!(
            self.serve_everybody(),
            self.exercise(),
            self.wipe(),
            self.tell()
        );
    }

    async fn serve_everybody(&self) {
        let mut seen = None;
        loop {
            self.beat.beat();
            match self.store.revision().await {
                Ok(revision) if seen == Some(revision) => {}
                Ok(revision) => match self.tenants.serve_active(&self.beat).await {
                    Ok(()) => seen = Some(revision),
                    Err(e) => tracing::error!(error = %chain(&e), "not all tenants are served"),
                },
                Err(e) => tracing::error!(error = %chain(&e), "the tenants cannot be read"),
            }
            self.tenants.forget_strangers();
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn exercise(&self) {
        loop {
            let now = Instant::now();
            let mut whom = self.tenants.all();
            whom.retain(|tenant| due(&tenant.standing(), now).is_some_and(|due| due <= now));
            // Who was never tried goes first, and nobody waits for the end of a long queue to be looked at.
            whom.sort_by_key(|tenant| tenant.standing().exercised_at);
            whom.truncate(AT_A_TIME);
            futures_util::stream::iter(whom)
                .for_each_concurrent(AT_ONCE, |tenant| async move { tenant.exercise().await })
                .await;
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn wipe(&self) {
        loop {
            let stored_by = self.clock.now().minus(KEPT_AFTER);
            match self.store.wipe_previous_tokens(stored_by).await {
                Ok(0) => {}
                Ok(wiped) => {
                    tracing::debug!(
                        custody.wiped = wiped,
                        "refresh tokens wiped that were replaced"
                    );
                }
                Err(e) => {
                    tracing::error!(error = %chain(&e), "replaced refresh tokens are not wiped");
                }
            }
            tokio::time::sleep(WIPE_EVERY).await;
        }
    }

    async fn tell(&self) {
        loop {
            tell_ends(&self.entra, self.clock.now());
            tokio::time::sleep(TELL_EVERY).await;
        }
    }
}

/// Logs which credentials of ours have ended or soon do.
fn tell_ends(entra: &Entra, now: Timestamp) {
    for credential in entra.credentials() {
        let Some(ends) = credential.ends else {
            continue;
        };
        match credential.ending(now) {
            Ending::Far => {}
            Ending::Soon | Ending::VerySoon => {
                tracing::warn!(%credential, %ends, "a credential of ours ends soon: add the next one, then restart");
            }
            Ending::Now => {
                tracing::error!(%credential, %ends, "a credential of ours ends within days: add the next one, then restart");
            }
            Ending::Ended => {
                tracing::error!(%credential, %ends, "a credential of ours has ended: remove it, and see that another is there");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(exercised_at: Option<Instant>) -> Standing {
        Standing {
            active: true,
            exercised_at,
            without_token: false,
            resting_until: None,
            jitter: 0.5,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_never_exercised_is_due_at_once_but_a_rest_is_kept() {
        let now = Instant::now();
        assert_eq!(due(&standing(None), now), Some(now));
        let rest = now + Duration::from_mins(1);
        for exercised_at in [None, Some(now)] {
            let resting = Standing {
                resting_until: Some(rest),
                without_token: true,
                ..standing(exercised_at)
            };
            assert_eq!(due(&resting, now), Some(rest));
        }
        let suspended = Standing {
            active: false,
            ..standing(None)
        };
        assert_eq!(due(&suspended, now), None);
    }

    #[tokio::test(start_paused = true)]
    async fn every_connection_is_exercised_within_a_day_at_a_time_of_its_own() {
        let now = Instant::now();
        let at = |jitter| {
            let standing = Standing {
                jitter,
                ..standing(Some(now))
            };
            due(&standing, now).unwrap() - now
        };
        for n in 0..=10 {
            let pause = at(f64::from(n) / 10.0);
            assert!(pause <= AT_LEAST_EVERY && pause >= AT_LEAST_EVERY.mul_f64(EARLIEST));
            assert!(pause >= RECENT, "when it is due it is not recent any more");
        }
        assert!(at(0.9) > at(0.1));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_token_the_next_try_waits_for_the_rest_only() {
        let now = Instant::now();
        let failed = Standing {
            without_token: true,
            ..standing(Some(now))
        };
        assert_eq!(due(&failed, now), Some(now));
    }
}
