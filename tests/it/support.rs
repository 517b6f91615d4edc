//! Waiters and assertions over a world; never a second way to build the system.

pub mod stage;
