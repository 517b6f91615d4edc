//! A part of a measurement in a process of its own, so that the system tells what it costs; and what the system tells.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::Context as _;
use presence_bridge::world::process;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Microseconds of a clock that all processes of this machine share.
pub fn now_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000
        + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000
}

/// A process that is measured. Killed when dropped.
pub struct Part {
    child: Child,
    asked: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Part {
    /// This same program in another role. It says something when it is ready.
    pub fn start<T: DeserializeOwned>(
        role: &str,
        setup: &impl Serialize,
    ) -> anyhow::Result<(Self, T)> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--part", role])
            .env("RUST_LOG", "error")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("the part {role} cannot be started"))?;
        let mut asked = child.stdin.take().context("a part without input")?;
        writeln!(asked, "{}", serde_json::to_string(setup)?)?;
        let answers = BufReader::new(child.stdout.take().context("a part without output")?);
        let mut part = Self {
            child,
            asked,
            answers,
        };
        let ready = part
            .answer()
            .with_context(|| format!("the part {role} did not become ready"))?;
        Ok((part, ready))
    }

    /// Asks for something and waits for the answer.
    pub fn ask<T: DeserializeOwned>(&mut self, what: &impl Serialize) -> anyhow::Result<T> {
        writeln!(self.asked, "{}", serde_json::to_string(what)?)?;
        self.answer()
    }

    fn answer<T: DeserializeOwned>(&mut self) -> anyhow::Result<T> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("a part said {line:?}"))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a part is given first.
pub fn setup<T: DeserializeOwned>() -> anyhow::Result<T> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

/// The other side: says that it is ready, and answers what it is asked until nobody asks any more.
pub fn play<Q: DeserializeOwned, A: Serialize>(
    ready: &impl Serialize,
    mut answer: impl FnMut(Q) -> anyhow::Result<A>,
) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{}", serde_json::to_string(ready)?)?;
    out.flush()?;
    for line in std::io::stdin().lock().lines() {
        let answer = answer(serde_json::from_str(&line?)?)?;
        writeln!(out, "{}", serde_json::to_string(&answer)?)?;
        out.flush()?;
    }
    Ok(())
}

/// Processor time a process has used, in seconds.
pub fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    Ok(process::cpu(pid)?.as_secs_f64())
}

/// Resident memory of a process, in bytes.
pub fn resident_bytes(pid: u32) -> anyhow::Result<f64> {
    #[expect(clippy::cast_precision_loss, reason = "far below")]
    let bytes = process::resident(pid)? as f64;
    Ok(bytes)
}
