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

    /// The same, with no more than so many open files and connections.
    pub fn serve_with_files(folder: &Path, most: u32) -> Self {
        let serve = command(folder);
        let mut limited = Command::new("sh");
        limited
            .arg("-c")
            .arg(format!("ulimit -n {most}; exec \"$@\""));
        limited
            .arg("sh")
            .arg(serve.get_program())
            .args(serve.get_args());
        limited.arg("serve").env("RUST_LOG", "warn");
        Self(limited.stdout(Stdio::null()).spawn().unwrap())
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

/// What a command said, and how it ended.
#[derive(Debug)]
pub struct Told {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Told {
    /// What it printed for programs.
    pub fn json(&self) -> serde_json::Value {
        assert_eq!(self.code, 0, "{self:?}");
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// A command with variables of its own; its two outputs apart.
pub async fn told(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Told {
    let mut command = command(folder);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .env_remove("PRESENCE_CLOUD_TOKEN")
        .env("COLUMNS", "200")
        .env("USER", "operator-of-this-machine")
        .env_remove("SUDO_USER")
        .envs(variables.iter().copied());
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = output.await.unwrap().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Told {
        code: output.status.code().unwrap_or(-1),
        out: text(&output.stdout),
        err: text(&output.stderr),
    }
}

/// Waits until something answers there.
pub async fn until_answered(url: url::Url) {
    for _ in 0..600 {
        if reqwest::get(url.clone()).await.is_ok() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("nothing answers");
}
