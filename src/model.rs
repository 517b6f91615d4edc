//! The vocabulary: pure values, without input, output, clock or async.

mod by_id;
mod coverage;
mod health;
mod ids;
mod position;
mod presence;
mod timestamp;

pub use by_id::{ById, IdSet};
pub use coverage::CoverageState;
pub use health::{Cause, Health, HealthState};
pub use ids::{InvalidUpn, KeyId, SuiteId, TenantId, Upn, UserId};
pub use position::{Epoch, Position, Sequence};
pub use presence::{Activity, Availability, Presence, WorkLocation};
pub use timestamp::Timestamp;
