//! Counts what goes to Microsoft, where it goes out.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::StatusCode;
use tokio::time::Instant;

use super::{Metrics, Outcome};
use crate::microsoft::error::Operation;
use crate::microsoft::{HttpTransport, Limits, TransportError, retry_after};

/// A way to Microsoft whose use is counted. What a request is for stands in its extensions.
pub struct Metered {
    inner: Arc<dyn HttpTransport>,
    metrics: Arc<Metrics>,
}

impl Metered {
    /// Goes this way.
    pub fn new(inner: Arc<dyn HttpTransport>, metrics: Arc<Metrics>) -> Self {
        Self { inner, metrics }
    }
}

fn outcome(result: &Result<http::Response<Bytes>, TransportError>) -> Outcome {
    match result {
        Ok(response) => match response.status() {
            status if status.is_success() => Outcome::Ok,
            StatusCode::TOO_MANY_REQUESTS => Outcome::Throttled,
            StatusCode::UNAUTHORIZED => Outcome::Unauthorized,
            StatusCode::FORBIDDEN => Outcome::Forbidden,
            // "Bandwidth limit exceeded", as Graph uses it.
            status if status.as_u16() == 509 => Outcome::Throttled,
            status if status.is_server_error() => Outcome::ServerError,
            _ => Outcome::Refused,
        },
        Err(TransportError::Timeout(_)) => Outcome::Timeout,
        Err(TransportError::Connect(_)) => Outcome::NoConnection,
        Err(_) => Outcome::Broken,
    }
}

#[async_trait]
impl HttpTransport for Metered {
    async fn send(
        &self,
        request: http::Request<Bytes>,
        limits: Limits,
    ) -> Result<http::Response<Bytes>, TransportError> {
        let operation = request.extensions().get::<Operation>().copied();
        let start = Instant::now();
        let result = self.inner.send(request, limits).await;
        if let Some(operation) = operation {
            let outcome = outcome(&result);
            self.metrics.microsoft(operation, outcome, start.elapsed());
            if let (Outcome::Throttled, Ok(response)) = (outcome, &result) {
                let after = retry_after(response.headers());
                self.metrics.throttled(operation, after);
            }
        }
        result
    }
}
