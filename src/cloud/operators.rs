//! The operators' listener: pages, admin API and what machines ask. It binds to loopback unless configured otherwise.

pub mod probes;

use std::sync::Arc;

use axum::Router;

use super::metrics::Metrics;
use super::operations::Operations;
use super::requests::{self, Observed};
use crate::config::cloud::OperatorsConfig;
use crate::secret::KeyRing;
use probes::Probes;

/// Everything the listener serves from.
pub struct Operators {
    /// What is seen and done.
    pub operations: Arc<Operations>,
    /// Who has the file of these keys may do everything: see the admin API's sign-in.
    pub keys: Arc<KeyRing>,
    /// As configured.
    pub config: OperatorsConfig,
    /// What machines ask.
    pub probes: Arc<Probes>,
    /// Where requests are counted.
    pub metrics: Arc<Metrics>,
}

impl Operators {
    /// All addresses there are.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new()
            .merge(self.probes.routes())
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
