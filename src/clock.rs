//! Wall time, injected, so that a day can pass in a test in milliseconds.
//!
//! Wall time comes from [`Clock::now`] and nowhere else; durations are measured with `tokio::time::Instant`.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::Timestamp;

/// Tells wall time.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Test {
        start: Timestamp,
        since: Instant,
        skew_millis: Arc<AtomicI64>,
    },
}

impl Clock {
    /// The clock of the machine.
    pub const fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that starts at `start` and then follows tokio's, paused or not.
    pub fn test(start: Timestamp) -> Self {
        Self(Source::Test {
            start,
            since: Instant::now(),
            skew_millis: Arc::default(),
        })
    }

    /// Whether time can be moved: then it says nothing of how long a disk takes.
    pub const fn can_be_moved(&self) -> bool {
        matches!(self.0, Source::Test { .. })
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => {
                #[expect(clippy::disallowed_methods, reason = "this is the one place")]
                let now = std::time::SystemTime::now();
                match now.duration_since(std::time::UNIX_EPOCH) {
                    Ok(since) => Timestamp::default().plus(since),
                    Err(before) => Timestamp::default().minus(before.duration()),
                }
            }
            Source::Test {
                start,
                since,
                skew_millis,
            } => Timestamp::from_millis(
                start.plus(since.elapsed()).as_millis() + skew_millis.load(Ordering::Relaxed),
            ),
        }
    }

    /// Moves wall time forward without letting any timer run, as after a suspended machine wakes up. Only on a test clock.
    pub fn jump(&self, by: Duration) {
        if let Source::Test { skew_millis, .. } = &self.0 {
            let by = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
            skew_millis.fetch_add(by, Ordering::Relaxed);
        }
    }
}
