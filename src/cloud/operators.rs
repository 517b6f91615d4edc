//! The operators' listener: pages, admin API and what machines ask. It binds to loopback unless configured otherwise.
//!
//! Pages: every answer has the security headers; whoever is not signed in sees the sign-in page and nothing else; a viewer sees
//! everything and can do nothing; every form comes from our own page.

mod act;
mod desk;
mod pages;
pub mod password;
mod sign_in;
mod texts;

use std::sync::Arc;

use axum::Router;

use super::operations::Operations;
use crate::config::cloud::OperatorsConfig;
use crate::secret::KeyRing;
use password::{PasswordError, Stored};

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
    /// Whether the files it names can be used; they are read again whenever they are needed.
    pub fn check(config: &OperatorsConfig) -> Result<(), PasswordError> {
        match &config.password_file {
            Some(path) => Stored::read(path).map(drop),
            None => Ok(()),
        }
    }

    /// All addresses there are.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new().merge(desk::Desk::new(Arc::clone(self)).router())
    }
}
