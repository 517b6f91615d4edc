//! The generated gRPC types, and their translation from and to [`crate::model`]: here and nowhere else.

mod convert;
pub mod down;

pub use convert::{
    InvalidTime, Names, duration, health, person_coverage, position, presence, timestamp,
};

/// Package `presence.bridge.v1`, generated from `proto/`.
#[expect(
    missing_docs,
    clippy::pedantic,
    reason = "generated; the proto files document every message and field"
)]
pub mod v1 {
    tonic::include_proto!("presence.bridge.v1");
}

/// The compiled `proto/`, for server reflection.
pub const DESCRIPTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));

/// Version of the contract spoken here.
pub const PROTOCOL_VERSION: u32 = 1;

/// Most UPNs in one message up.
pub const MAX_UPNS_PER_MESSAGE: usize = 1_000;

/// Most bytes of a message up.
pub const MAX_MESSAGE_UP: usize = 256 << 10;

/// Most bytes of a message down.
pub const MAX_MESSAGE_DOWN: usize = 1 << 20;

/// Most people in one message down.
pub const MAX_PEOPLE_PER_MESSAGE: usize = 256;

/// What a suite signs with its new key to enrol. `proto/presence/bridge/v1/enrollment.proto`.
pub fn enroll_proof_message(code: &str, public_key: &[u8]) -> Vec<u8> {
    proof_message(
        "presence-bridge enrol v1",
        &normalize_code(code),
        public_key,
    )
}

/// What a suite signs with its new key to renew it.
pub fn renew_proof_message(suite_id: &str, public_key: &[u8]) -> Vec<u8> {
    proof_message("presence-bridge renew v1", suite_id, public_key)
}

fn proof_message(purpose: &str, subject: &str, public_key: &[u8]) -> Vec<u8> {
    let mut message = format!("{purpose}\n{subject}\n").into_bytes();
    message.extend_from_slice(public_key);
    message
}

/// An enrolment code as it is compared: without blanks and dashes, in upper case.
pub fn normalize_code(code: &str) -> String {
    code.chars()
        .filter(|c| !c.is_whitespace() && *c != '-')
        .map(|c| c.to_ascii_uppercase())
        .collect()
}
