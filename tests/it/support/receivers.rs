//! Real receivers of alerts: Debian's `webhook`, which checks the signature before it takes anything, and a mail server in Python.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

/// Killed when dropped.
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub const SECRET: &str = "what signs the messages";

pub fn tool(variable: &str) -> PathBuf {
    let path = std::env::var_os(variable);
    path.unwrap_or_else(|| panic!("{variable} is not set: run make test, or scripts/setup"))
        .into()
}

/// A port nobody listens on just now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// Starts it and waits until it listens. Real time passes, whatever time the test has.
pub fn started(mut command: Command, port: u16) -> Running {
    let mut running = Running(
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap(),
    );
    for _ in 0..1_000 {
        if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return running;
        }
        assert!(running.0.try_wait().unwrap().is_none(), "it has ended");
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it does not listen");
}

/// A webhook.
pub struct Hook {
    folder: PathBuf,
    pub port: u16,
    running: Option<Running>,
}

impl Hook {
    /// Not running yet.
    pub fn new(folder: &Path) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = folder.join("hook");
        std::fs::create_dir_all(&folder).unwrap();
        let script = folder.join("take");
        std::fs::write(&script, "#!/bin/sh\nprintf '%s\\n' \"$1\" >>taken\n").unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o700)).unwrap();
        let hooks = json!([{
            "id": "alerts",
            "execute-command": script,
            "command-working-directory": folder,
            "pass-arguments-to-command": [{ "source": "entire-payload" }],
            "include-command-output-in-response": true,
            "trigger-rule-mismatch-http-response-code": 403,
            "trigger-rule": { "match": {
                "type": "payload-hmac-sha256",
                "secret": SECRET,
                "parameter": { "source": "header", "name": "X-Hub-Signature-256" },
            } },
        }]);
        std::fs::write(folder.join("hooks.json"), hooks.to_string()).unwrap();
        Self {
            folder,
            port: free_port(),
            running: None,
        }
    }

    pub fn start(&mut self) {
        let mut command = Command::new(tool("PRESENCE_TEST_WEBHOOK"));
        command.args([
            "-ip",
            "127.0.0.1",
            "-port",
            &self.port.to_string(),
            "-hooks",
        ]);
        command
            .arg(self.folder.join("hooks.json"))
            .stderr(Stdio::null());
        self.running = Some(started(command, self.port));
    }

    pub fn stop(&mut self) {
        self.running = None;
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hooks/alerts", self.port)
    }

    /// What it was told, oldest first.
    pub fn taken(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.folder.join("taken")).unwrap_or_default();
        let lines = text.lines().map(serde_json::from_str::<Value>);
        lines.map(Result::unwrap).collect()
    }
}

/// A mail server.
pub struct MailServer {
    folder: PathBuf,
    pub port: u16,
    _running: Running,
}

impl MailServer {
    /// In plain, or only after STARTTLS with this certificate and key.
    pub fn start(folder: &Path, tls: Option<(&Path, &Path)>) -> Self {
        let (folder, port) = (folder.join("mail"), free_port());
        let mut command = Command::new(tool("PRESENCE_TEST_MAIL"));
        command.args(["-m", "aiosmtpd", "-n", "-l"]);
        command.arg(format!("127.0.0.1:{port}"));
        if let Some((certificate, key)) = tls {
            command
                .arg("--tlscert")
                .arg(certificate)
                .arg("--tlskey")
                .arg(key);
        }
        command
            .args(["-c", "aiosmtpd.handlers.Mailbox"])
            .arg(&folder);
        let running = started(command, port);
        Self {
            folder,
            port,
            _running: running,
        }
    }

    /// What has arrived: in no order.
    pub fn taken(&self) -> Vec<String> {
        let Ok(files) = std::fs::read_dir(self.folder.join("new")) else {
            return Vec::new();
        };
        let texts = files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
        texts.collect()
    }
}
