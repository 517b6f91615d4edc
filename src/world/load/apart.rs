//! Suites in a process of their own, so that they and the simulated Microsoft do not wait for each other: a line of JSON for each
//! question, and one for each answer.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::super::program::alone;
use super::LoadError;
use super::fleet::{Answer, Ask, Fleet, Plan};
use crate::clock::Clock;

/// The command of this program that is the other side.
pub const COMMAND: &str = "load-suites";

/// Suites that run here or apart.
pub enum Suites {
    /// In this process.
    Here(Fleet),
    /// In one of their own.
    Apart(Box<Apart>),
}

impl Suites {
    /// Starts them.
    pub async fn start(plan: Plan, apart: bool, clock: &Clock) -> Result<Self, LoadError> {
        if apart {
            return Ok(Self::Apart(Box::new(Apart::start(plan).await?)));
        }
        Ok(Self::Here(Fleet::start(plan, clock)?))
    }

    /// Asks them.
    pub async fn ask(&mut self, ask: Ask) -> Result<Answer, LoadError> {
        match self {
            Self::Here(fleet) => Ok(fleet.answer(ask)),
            Self::Apart(apart) => apart.ask(ask).await,
        }
    }

    /// The process they are in, if it is one of their own.
    pub fn pid(&self) -> Option<u32> {
        match self {
            Self::Here(_) => None,
            Self::Apart(apart) => Some(apart.child.id()),
        }
    }
}

/// The process of the suites. Killed when dropped.
pub struct Apart {
    child: Child,
    pipes: Option<Pipes>,
}

struct Pipes(ChildStdin, BufReader<ChildStdout>);

impl Pipes {
    fn ask(&mut self, what: &impl serde::Serialize) -> std::io::Result<Answer> {
        writeln!(self.0, "{}", serde_json::to_string(what)?)?;
        let mut line = String::new();
        self.1.read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }
}

impl Apart {
    async fn start(plan: Plan) -> Result<Self, LoadError> {
        let mut command = Command::new(std::env::current_exe().map_err(LoadError::Suites)?);
        command
            .arg(COMMAND)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        alone(&mut command);
        let mut child = command.spawn().map_err(LoadError::Suites)?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let mut apart = Self {
            child,
            pipes: pipes.map(|(to, from)| Pipes(to, BufReader::new(from))),
        };
        apart.send(plan).await?;
        Ok(apart)
    }

    async fn ask(&mut self, ask: Ask) -> Result<Answer, LoadError> {
        self.send(ask).await
    }

    async fn send(
        &mut self,
        what: impl serde::Serialize + Send + 'static,
    ) -> Result<Answer, LoadError> {
        let gone = || LoadError::Suites(std::io::ErrorKind::BrokenPipe.into());
        let mut pipes = self.pipes.take().ok_or_else(gone)?;
        let asked = tokio::task::spawn_blocking(move || {
            let answer = pipes.ask(&what);
            (pipes, answer)
        });
        let (pipes, answer) = asked.await.map_err(|_| gone())?;
        self.pipes = Some(pipes);
        answer.map_err(LoadError::Suites)
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The other side: runs the suites it is told to, and answers until nobody asks any more.
pub async fn serve() -> Result<(), LoadError> {
    let (to_us, mut asked) = tokio::sync::mpsc::channel::<std::io::Result<String>>(1);
    // Reading from a terminal or a pipe cannot be cancelled: a thread of its own, which ends with the process.
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            if to_us.blocking_send(line).is_err() {
                return;
            }
        }
    });
    let clock = Clock::system();
    let mut fleet: Option<Fleet> = None;
    while let Some(line) = asked.recv().await {
        let line = line.map_err(LoadError::Suites)?;
        let answer = if let Some(fleet) = &fleet {
            fleet.answer(serde_json::from_str(&line).map_err(bad)?)
        } else {
            let plan = serde_json::from_str(&line).map_err(bad)?;
            fleet = Some(Fleet::start(plan, &clock)?);
            Answer::Noted
        };
        let text = serde_json::to_string(&answer).map_err(bad)?;
        let mut out = std::io::stdout().lock();
        writeln!(out, "{text}")
            .and_then(|()| out.flush())
            .map_err(LoadError::Suites)?;
    }
    Ok(())
}

fn bad(error: serde_json::Error) -> LoadError {
    LoadError::Suites(error.into())
}
