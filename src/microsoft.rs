//! Everything we believe about Entra and Graph.
//!
//! One way out: [`transport`] holds every limit and the list of hosts we talk to. [`entra`] gets tokens, [`graph`] reads
//! presence and looks names up; both say what went wrong as a [`MicrosoftError`], and [`MicrosoftError::recovery`] is the
//! one place that decides what that means.
//!
//! Sources: `microsoft-graph.md`, `entra-oauth.md`, `security-and-faults.md` §2 and §6.

pub mod aadsts;
mod call;
pub mod entra;
pub mod error;
pub mod graph;
mod headers;
pub mod transport;

pub use entra::{
    AccessToken, AppCredential, Credential, CredentialFacts, CredentialKind, Discovered, Ending,
    Entra, Refreshed,
};
pub use error::{MicrosoftError, Recovery};
pub use graph::{Graph, Lookup};
pub use headers::retry_after;
pub use transport::{HttpTransport, Limits, ReqwestTransport, RouterTransport, TransportError};
