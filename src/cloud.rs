//! The multi-tenant service.

pub mod directory;
pub mod hub;
pub mod state;
pub mod store;
