//! Named points at which a test can stop the process for good, to kill it exactly there.
//!
//! Only in builds with debug assertions: elsewhere [`here`] does nothing.

/// Names the point at which the process stops.
#[cfg(debug_assertions)]
pub const POINT: &str = "PRESENCE_CLOUD_PARK_AT";

/// Names a file that is made when the process has come to that point.
#[cfg(debug_assertions)]
pub const MARKER: &str = "PRESENCE_CLOUD_PARK_FILE";

/// If this is the point named by the environment: says so, and waits to be killed.
#[cfg(debug_assertions)]
pub async fn here(point: &str) {
    if std::env::var_os(POINT).is_none_or(|wanted| wanted != *point) {
        return;
    }
    if let Some(marker) = std::env::var_os(MARKER) {
        let _ = std::fs::write(marker, point);
    }
    std::future::pending::<()>().await;
}

/// Does nothing.
#[cfg(not(debug_assertions))]
#[expect(clippy::unused_async, reason = "the same shape in every build")]
#[inline]
pub async fn here(_point: &str) {}
