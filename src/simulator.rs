//! A simulated Microsoft (Entra and Graph); demo, tests and benches run on it.
//!
//! Invariant: nothing here uses `microsoft`, `cloud` or `agent`. The simulator writes Microsoft's JSON itself, from documented
//! samples, so that an error of our client cannot cancel out. What is modelled, from which source, and what is not, stands in
//! `docs/simulator-fidelity.md`.

mod answer;
mod control;
mod counts;
mod day;
mod directory;
mod entra;
mod faults;
mod graph;
mod names;
mod options;
mod tenant;
mod throttle;
mod world;

pub use counts::{Count, Endpoint, RequestCounts};
pub use day::{Moment, moment};
pub use directory::Person;
pub use faults::{ActiveFault, Fault, FaultInfo, FaultParams, IdTokenFlaw, InvalidFault, Scope};
pub use options::{
    Casing, Duplicates, EmptyIds, Life, Limit, Limits, Options, PersonalAccounts, Switches,
    UnknownPerson,
};
pub use tenant::{NationalCloud, NationalDiscovery, Tenant, TenantSpec};
pub use world::{AppRegistration, Microsoft};
