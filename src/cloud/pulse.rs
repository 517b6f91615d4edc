//! Whether what must keep running does.
//!
//! A task that dies is noticed by the supervisor. One that hangs is noticed here: each loop the service cannot do without beats as it
//! goes round, and whoever asks is told which have not for too long.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

/// How often a loop that otherwise waits for others goes round.
pub const TICK: Duration = Duration::from_secs(1);

/// A loop that only waits is late after this time: a runtime so slow is as good as hung.
pub const LATE: Duration = Duration::from_secs(15);

/// A loop that asks the store is late after this time: the store itself gives up after ten seconds, and has several goes.
pub const LATE_WITH_STORE: Duration = Duration::from_mins(1);

/// The heart of one loop.
#[derive(Clone, Debug)]
pub struct Beat {
    began: Instant,
    /// Milliseconds after `began`.
    last: Arc<AtomicU64>,
}

impl Default for Beat {
    /// One that nobody listens to.
    fn default() -> Self {
        Self {
            began: Instant::now(),
            last: Arc::default(),
        }
    }
}

impl Beat {
    /// The loop goes round.
    pub fn beat(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    fn age(&self) -> Duration {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(last)
    }
}

struct Loop {
    name: &'static str,
    beat: Beat,
    late_after: Duration,
}

/// All loops that must run.
#[derive(Default)]
pub struct Pulse(Mutex<Vec<Loop>>);

impl Pulse {
    /// A loop begins that must beat at least this often.
    pub fn of(&self, name: &'static str, late_after: Duration) -> Beat {
        let beat = Beat::default();
        self.loops().push(Loop {
            name,
            beat: beat.clone(),
            late_after,
        });
        beat
    }

    /// The loops, and for how long each has not beaten if that is too long.
    pub fn state(&self) -> Vec<(&'static str, Option<Duration>)> {
        self.loops()
            .iter()
            .map(|one| {
                let age = one.beat.age();
                (one.name, (age > one.late_after).then_some(age))
            })
            .collect()
    }

    fn loops(&self) -> std::sync::MutexGuard<'_, Vec<Loop>> {
        self.0.lock().expect("nothing panics while holding it")
    }
}

/// Beats for ever: hears whether tasks get their turn at all.
pub async fn tick_for_ever(beat: Beat) {
    loop {
        beat.beat();
        tokio::time::sleep(TICK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_stops_beating_is_named_and_nobody_else() {
        let pulse = Pulse::default();
        let (steady, hung) = (pulse.of("steady", LATE), pulse.of("hung", LATE));
        hung.beat();
        for _ in 0..60 {
            assert!(pulse.state()[0].1.is_none());
            tokio::time::sleep(TICK).await;
            steady.beat();
        }
        let state = pulse.state();
        assert_eq!(state[0], ("steady", None));
        assert_eq!(state[1].0, "hung");
        assert!(
            state[1]
                .1
                .is_some_and(|late| late >= Duration::from_secs(59))
        );
        hung.beat();
        assert_eq!(pulse.state()[1].1, None, "it may recover");
    }
}
