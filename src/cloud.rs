//! The multi-tenant service.

pub mod store;
