//! presence-cloud as a process of its own, as an operator runs it: so that the system tells what it costs.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use tokio::time::Instant;
use url::Url;

use super::{WorldError, io};

/// Far longer than a start takes.
const READY_WITHIN: Duration = Duration::from_mins(1);

/// How often it is looked whether it is ready, or has ended.
const LOOK: Duration = Duration::from_millis(50);

/// Of what it said last, so much is told when it ends by itself.
const LAST_WORDS: usize = 600;

/// Whoever interrupts us at the keyboard does not interrupt it: we end it ourselves.
pub(super) fn alone(command: &mut Command) {
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(command, 0);
}

/// A running presence-cloud. Killed when dropped.
pub struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts `presence-cloud serve` and waits until it is ready. What it logs goes to the file `log`.
    pub async fn serve(
        program: &Path,
        config: &Path,
        log: &Path,
        operators: &Url,
    ) -> Result<Self, WorldError> {
        let file = File::create(log).map_err(io(format!("cannot write {}", log.display())))?;
        let mut command = Command::new(program);
        command.arg("--config").arg(config).arg("serve");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file);
        alone(&mut command);
        let child = command
            .spawn()
            .map_err(io(format!("cannot start {}", program.display())))?;
        let mut started = Self {
            child,
            log: log.to_owned(),
        };
        let readyz = operators.join("readyz").expect("a path");
        let until = Instant::now() + READY_WITHIN;
        loop {
            if let Some(status) = started.ended() {
                let said = started.last_words();
                return Err(WorldError::Ended(format!("{status}: {said}")));
            }
            // Whether it is ready for Microsoft's tenants too does not matter: it serves.
            let asked = tokio::time::timeout(READY_WITHIN, reqwest::get(readyz.clone()));
            if matches!(asked.await, Ok(Ok(_))) {
                return Ok(started);
            }
            if Instant::now() > until {
                return Err(WorldError::Ended("it did not become ready".into()));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits until it has ended by itself: what it said last.
    pub async fn died(&mut self) -> String {
        loop {
            if let Some(status) = self.ended() {
                return format!("presence-cloud has ended ({status}): {}", self.last_words());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn last_words(&self) -> String {
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        let from = said.floor_char_boundary(said.len().saturating_sub(LAST_WORDS));
        match said[from..].trim() {
            "" => "it said nothing".to_owned(),
            said => said.to_owned(),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
