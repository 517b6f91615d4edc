//! Named tasks and an orderly end.
//!
//! Invariant: no task ends unseen. A task that must not end and does, or one that panics, brings the process down with its name
//! in the error, because a process that has lost a loop looks healthy for ever.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

/// A task that must not end did, or one panicked.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the task \"{task}\" {how}")]
pub struct TaskDied {
    /// Name of the task.
    pub task: &'static str,
    /// What happened to it.
    pub how: &'static str,
}

/// Starts tasks and stops them together. Clones share the tasks.
#[derive(Clone, Debug)]
pub struct Supervisor {
    tasks: TaskTracker,
    soft: CancellationToken,
    died: CancellationToken,
    first_death: Arc<Mutex<Option<TaskDied>>>,
}

impl Default for Supervisor {
    fn default() -> Self {
        Self::new()
    }
}

impl Supervisor {
    /// With no tasks yet.
    pub fn new() -> Self {
        Self {
            tasks: TaskTracker::new(),
            soft: CancellationToken::new(),
            died: CancellationToken::new(),
            first_death: Arc::default(),
        }
    }

    /// Cancelled when work should come to an end. Tasks select on it.
    pub fn stopping(&self) -> CancellationToken {
        self.soft.clone()
    }

    /// Runs a task that lasts as long as the process: its end before [`Supervisor::stop`] is a failure of the process.
    pub fn run(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.spawn(name, work, true);
    }

    /// Runs a task that may end at any time; its panic is a failure of the process all the same.
    pub fn run_once(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.spawn(name, work, false);
    }

    fn spawn(
        &self,
        name: &'static str,
        work: impl Future<Output = ()> + Send + 'static,
        lasting: bool,
    ) {
        // A task is nobody's part: what starts it may have ended long before it does.
        let span = tracing::info_span!(parent: None, "task", name);
        let (this, guard) = (
            self.clone(),
            DeathNotice {
                name,
                supervisor: self.clone(),
                armed: true,
            },
        );
        self.tasks.spawn(
            async move {
                let mut guard = guard;
                work.await;
                guard.armed = false;
                if lasting && !this.soft.is_cancelled() {
                    this.report(TaskDied {
                        task: name,
                        how: "ended unexpectedly",
                    });
                }
            }
            .instrument(span),
        );
    }

    fn report(&self, death: TaskDied) {
        if let Ok(mut first) = self.first_death.lock() {
            first.get_or_insert(death);
        }
        self.died.cancel();
    }

    /// Waits until a task has died that must not.
    pub async fn failed(&self) -> TaskDied {
        self.died.cancelled().await;
        let death = self.first_death.lock().ok().and_then(|d| d.clone());
        death.unwrap_or(TaskDied {
            task: "unknown",
            how: "died",
        })
    }

    /// Asks all tasks to end and waits for them. True when all had ended within `grace`; the rest is left to the runtime.
    pub async fn stop(&self, grace: Duration) -> bool {
        self.soft.cancel();
        self.tasks.close();
        tokio::time::timeout(grace, self.tasks.wait()).await.is_ok()
    }
}

/// Reports a panic: it is dropped armed when the task unwinds. A task cancelled by the end of the runtime is no failure, but
/// then nobody listens either.
struct DeathNotice {
    name: &'static str,
    supervisor: Supervisor,
    armed: bool,
}

impl Drop for DeathNotice {
    fn drop(&mut self) {
        if self.armed && std::thread::panicking() {
            self.supervisor.report(TaskDied {
                task: self.name,
                how: "panicked",
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_unexpected_end_is_a_failure() {
        let s = Supervisor::new();
        s.run("poller", async {});
        assert_eq!(
            s.failed().await.to_string(),
            "the task \"poller\" ended unexpectedly"
        );
    }

    #[tokio::test]
    async fn a_panic_is_a_failure_even_where_an_end_is_not() {
        let s = Supervisor::new();
        s.run_once("fine", async {});
        s.run_once("stream", async { panic!("on purpose") });
        assert_eq!(s.failed().await.to_string(), "the task \"stream\" panicked");
    }

    #[tokio::test]
    async fn stop_waits_for_the_willing_and_leaves_the_rest() {
        let s = Supervisor::new();
        let stopping = s.stopping();
        s.run("willing", async move { stopping.cancelled().await });
        assert!(s.stop(Duration::from_secs(5)).await);
        let s = Supervisor::new();
        s.run("unwilling", std::future::pending());
        assert!(!s.stop(Duration::from_millis(10)).await);
    }
}
