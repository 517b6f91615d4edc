//! What several behaviours need; never a second way to build the system.

pub mod browser;
pub mod openapi;
pub mod raw;
pub mod stage;
pub mod visitor;
