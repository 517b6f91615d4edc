//! What several behaviours need; never a second way to build the system.

pub mod aadsts_codes;
pub mod asker;
pub mod attacks;
pub mod besieged;
pub mod browser;
pub mod collector;
pub mod frames;
pub mod issuer;
pub mod log;
pub mod openapi;
pub mod program;
pub mod raw;
pub mod receivers;
pub mod scan;
pub mod stage;
pub mod time;
pub mod visitor;
