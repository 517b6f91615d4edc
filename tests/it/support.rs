//! What several behaviours need.

pub mod openapi;
