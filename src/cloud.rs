//! The multi-tenant service.
