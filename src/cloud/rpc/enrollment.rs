//! How suites get and keep their identity.

use std::time::Duration;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use tonic::{Code, Request, Response, Status};

use super::Api;
use crate::cloud::listener::{self, Peer};
use crate::cloud::metrics::Enrolment;
use crate::cloud::store::EnrolError;
use crate::secret::sha256;
use crate::wire::{self, v1};

/// A replaced key stays valid for this long, so that a lost answer costs nothing, even when the suite is off for a night.
const PREVIOUS_KEY: Duration = Duration::from_hours(24);

/// Longest name or version of a suite.
const MAX_NAME_BYTES: usize = 100;

/// Bytes of an Ed25519 public key.
const PUBLIC_KEY_BYTES: usize = 32;

/// The hash under which a code is stored.
pub(crate) fn code_hash(code: &str) -> [u8; 32] {
    sha256(wire::normalize_code(code).as_bytes())
}

fn check_proof(public_key: &[u8], message: &[u8], proof: &[u8]) -> Result<(), Status> {
    if public_key.len() != PUBLIC_KEY_BYTES {
        return Err(Status::invalid_argument(
            "public_key must be the 32 raw bytes of an Ed25519 public key",
        ));
    }
    UnparsedPublicKey::new(&ED25519, public_key)
        .verify(message, proof)
        .map_err(|_| {
            Status::invalid_argument("proof is not the signature described in enrollment.proto")
        })
}

/// A name for people: printable, not too long.
fn check_name(name: &str, what: &str) -> Result<String, Status> {
    if name.len() > MAX_NAME_BYTES {
        return Err(Status::invalid_argument(format!(
            "{what} is longer than 100 bytes"
        )));
    }
    if name.chars().any(char::is_control) {
        return Err(Status::invalid_argument(format!(
            "{what} contains control characters"
        )));
    }
    let name = name.trim();
    Ok(if name.is_empty() {
        "unnamed".into()
    } else {
        name.into()
    })
}

fn failed(e: &EnrolError) -> Status {
    match e {
        EnrolError::NotValid => Status::permission_denied(
            "the enrolment code is not valid: it was mistyped, used, or has expired; ask for a new one",
        ),
        EnrolError::KeyInUse => {
            Status::already_exists("this key is enrolled already; make a new one")
        }
        EnrolError::Store(store) => {
            tracing::error!(error = %crate::cloud::tokens::chain(store), "enrolment failed");
            Status::unavailable("the service cannot reach its store just now; try again")
        }
    }
}

impl Api {
    async fn enrol(
        &self,
        request: Request<v1::EnrollRequest>,
    ) -> Result<Response<v1::EnrollResponse>, Status> {
        let peer = request.extensions().get::<Peer>().copied();
        if self.enrolments.check().is_err() {
            return Err(Status::resource_exhausted(
                "too many suites enrol just now; come back in a minute",
            ));
        }
        let (_, extensions, request) = request.into_parts();
        let name = check_name(&request.suite_name, "suite_name")?;
        check_name(&request.agent_version, "agent_version")?;
        let message = wire::enroll_proof_message(&request.code, &request.public_key);
        check_proof(&request.public_key, &message, &request.proof)?;
        let now = self.clock.now();
        let enrolled = self
            .store
            .enrol(code_hash(&request.code), &request.public_key, &name, now)
            .await;
        let suite = match enrolled {
            Ok(suite) => suite,
            Err(e) => {
                if matches!(e, EnrolError::NotValid) {
                    self.enrol_failures.note(peer)?;
                }
                return Err(failed(&e));
            }
        };
        listener::admit(&extensions);
        let tenant = self
            .store
            .tenant(suite.tenant)
            .await
            .map_err(|e| failed(&e.into()))?;
        tracing::info!(suite.id = %suite.suite, tenant.id = %suite.tenant, "a suite enrolled");
        Ok(Response::new(v1::EnrollResponse {
            suite_id: suite.suite.to_string(),
            key_id: suite.key.to_string(),
            tenant_id: suite.tenant.to_string(),
            audience: self.auth.audience().to_owned(),
            tenant_name: tenant.map(|t| t.name).unwrap_or_default(),
            server_time: Some(wire::timestamp(now)),
        }))
    }
}

#[tonic::async_trait]
impl v1::enrollment_service_server::EnrollmentService for Api {
    async fn enroll(
        &self,
        request: Request<v1::EnrollRequest>,
    ) -> Result<Response<v1::EnrollResponse>, Status> {
        let outcome = self.enrol(request).await;
        self.metrics.enrolment(match &outcome {
            Ok(_) => Enrolment::Enrolled,
            Err(status) if status.code() == Code::Unavailable => Enrolment::Failed,
            Err(_) => Enrolment::Refused,
        });
        outcome
    }

    async fn renew_key(
        &self,
        request: Request<v1::RenewKeyRequest>,
    ) -> Result<Response<v1::RenewKeyResponse>, Status> {
        let identity = self.identify(&request).await?;
        let request = request.into_inner();
        let message = wire::renew_proof_message(&identity.suite.to_string(), &request.public_key);
        check_proof(&request.public_key, &message, &request.proof)?;
        let now = self.clock.now();
        let again = self
            .store
            .own_key(identity.suite, &request.public_key, now)
            .await
            .map_err(|e| failed(&e.into()))?;
        if let Some(key) = again {
            // The answer was lost: here it is again.
            let caller = self.store.suite_key(identity.key).await;
            let until = caller.map_err(|e| failed(&e.into()))?;
            return Ok(Response::new(v1::RenewKeyResponse {
                key_id: key.to_string(),
                previous_key_valid_until: until
                    .and_then(|key| key.valid_until)
                    .map(wire::timestamp),
            }));
        }
        if !self.renewals.entry(identity.suite).or_insert(()).is_fresh() {
            return Err(Status::resource_exhausted(
                "this suite has a new key already; at most one a minute",
            ));
        }
        let until = now.plus(PREVIOUS_KEY);
        let renewed = self
            .store
            .renew_key(identity.suite, &request.public_key, now, until)
            .await;
        let key = renewed.map_err(|e| {
            self.renewals.invalidate(&identity.suite);
            failed(&e)
        })?;
        self.auth.forget_key(identity.key);
        tracing::info!(suite.id = %identity.suite, "a suite renewed its key");
        Ok(Response::new(v1::RenewKeyResponse {
            key_id: key.to_string(),
            previous_key_valid_until: Some(wire::timestamp(until)),
        }))
    }
}
