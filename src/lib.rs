//! Microsoft Teams presence for the phone systems companies run on their own premises.
//!
//! Presence flows one way, interest the other:
//!
//! ```text
//! microsoft → cloud::poller → cloud::state → cloud::hub → cloud::rpc ⇒ gRPC ⇒ agent::uplink
//!     ◄──────────────────────────── who is watched ────────────────────────────────
//! ```
//!
//! Each stage knows [`model`] and its neighbour, nothing more. `ARCHITECTURE.md` tells the whole story.

pub mod agent;
pub mod backoff;
pub mod clock;
pub mod cloud;
pub mod config;
pub mod microsoft;
pub mod model;
pub mod park;
pub mod secret;
pub mod signing_keys;
pub mod simulator;
pub mod supervise;
pub mod telemetry;
pub mod wire;
pub mod world;
