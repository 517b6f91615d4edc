//! The operators' listener: pages, admin API and what machines ask. It binds to loopback unless configured otherwise.

use std::sync::Arc;

use axum::Router;

use super::operations::Operations;
use crate::config::cloud::OperatorsConfig;
use crate::secret::KeyRing;

/// Everything the listener serves from.
pub struct Operators {
    /// What is seen and done.
    pub operations: Arc<Operations>,
    /// Who has the file of these keys may do everything: see the admin API's sign-in.
    pub keys: Arc<KeyRing>,
    /// As configured.
    pub config: OperatorsConfig,
}

impl Operators {
    /// All addresses there are.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new()
    }
}
