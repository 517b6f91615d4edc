//! The agent beside the suite: proves who it is, keeps a stream to the cloud, and shows what came.
//!
//! Invariant: nothing here uses the cloud's code, nor the other way round; the contract in `proto/` is all they share.

pub mod connection;
pub mod identity;
pub mod json;
pub mod table;
pub mod uplink;
pub mod view;
