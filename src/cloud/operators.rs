//! The operators' listener: pages, admin API and what machines ask. It binds to loopback unless configured otherwise.
//!
//! Pages: every answer has the security headers; whoever is not signed in sees the sign-in page and nothing else; a viewer sees
//! everything and can do nothing; every form comes from our own page.

mod act;
pub mod api;
mod desk;
pub mod oidc;
mod pages;
pub mod password;
pub mod probes;
mod sign_in;
mod texts;

pub use pages::span;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;

use super::metrics::Metrics;
use super::operations::Operations;
use super::requests::{self, Observed};
use super::tokens::chain;
use super::web::session::{AGE, IDLE};
use crate::config::cloud::OperatorsConfig;
use crate::secret::KeyRing;
use oidc::{Issuer, OperatorsError};
use password::Stored;
use probes::Probes;

/// How often ended sessions are forgotten.
const TIDY: Duration = Duration::from_mins(10);

/// Everything the listener serves from.
pub struct Operators {
    /// What is seen and done.
    pub operations: Arc<Operations>,
    /// Who has the file of these keys may do everything: see the admin API's sign-in.
    pub keys: Arc<KeyRing>,
    /// As configured.
    pub config: OperatorsConfig,
    /// Where operators sign in, if not with a password.
    pub issuer: Option<Issuer>,
    /// What machines ask.
    pub probes: Arc<Probes>,
    /// Where requests are counted.
    pub metrics: Arc<Metrics>,
}

impl Operators {
    /// Whether the files it names can be used; they are read again whenever they are needed. The issuer at which operators sign in,
    /// if there is one: it is not asked yet, and may be down.
    pub fn check(config: &OperatorsConfig) -> Result<Option<Issuer>, OperatorsError> {
        if let Some(path) = &config.password_file {
            Stored::read(path)?;
        }
        Issuer::new(config)
    }

    /// Forgets sessions that have ended, for ever.
    pub async fn tidy_for_ever(self: Arc<Self>) {
        loop {
            tokio::time::sleep(TIDY).await;
            let now = self.operations.now();
            let store = self.operations.store();
            let forgotten = store.forget_operator_sessions(now.minus(IDLE), now.minus(AGE));
            if let Err(e) = forgotten.await {
                tracing::error!(error = %chain(&e), "operators' sessions that have ended were not forgotten");
            }
        }
    }

    /// All addresses there are.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new()
            .merge(desk::Desk::new(Arc::clone(self)).router())
            .merge(self.probes.routes())
            .nest("/api", api::AdminApi::new(Arc::clone(self)).router())
            .layer(axum::middleware::from_fn_with_state(
                Observed {
                    metrics: Arc::clone(&self.metrics),
                    listener: "operators",
                    ids_from_outside: true,
                },
                requests::observe,
            ))
    }
}
