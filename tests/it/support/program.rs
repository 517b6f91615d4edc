//! The real presence-cloud as a process of its own, on the files of a stage.

use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Killed when dropped, whatever happens to the test.
pub struct Program(Child);

fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_presence-cloud"));
    command
        .arg("--config")
        .arg(folder.join("cloud.toml"))
        .env("RUST_LOG", "warn");
    command
}

impl Program {
    /// `presence-cloud serve`.
    pub fn serve(folder: &Path) -> Self {
        let mut command = command(folder);
        Self(command.arg("serve").stdout(Stdio::null()).spawn().unwrap())
    }

    /// The same, stopping for good at a named point. It has come there when the file exists that is returned.
    #[cfg(debug_assertions)]
    pub fn serve_until(folder: &Path, point: &str) -> (Self, std::path::PathBuf) {
        Self::run_until(folder, &["serve"], point)
    }

    /// A command, killed when it is dropped.
    pub fn run(folder: &Path, arguments: &[&str]) -> Self {
        let mut command = command(folder);
        command.args(arguments).stdout(Stdio::null());
        Self(command.stderr(Stdio::null()).spawn().unwrap())
    }

    /// The same, stopping for good at a named point.
    #[cfg(debug_assertions)]
    pub fn run_until(folder: &Path, arguments: &[&str], point: &str) -> (Self, std::path::PathBuf) {
        use presence_bridge::park;
        let marker = folder.join("parked");
        let _ = std::fs::remove_file(&marker);
        let child = command(folder)
            .args(arguments)
            .env(park::POINT, point)
            .env(park::MARKER, &marker)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        (Self(child.unwrap()), marker)
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A command of the operator: whether it went well, and what it said.
pub async fn operator(folder: &Path, arguments: &[&str]) -> (bool, String) {
    let mut command = command(folder);
    command.args(arguments).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = output.await.unwrap().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}
