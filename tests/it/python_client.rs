//! The third-party client of `docs/examples/python`, as its reader would run it, against the whole product.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use presence_bridge::cloud::store::ConnectionKind;
use presence_bridge::simulator::TenantSpec;
use presence_bridge::world::{World, WorldSettings};
use serde_json::Value;

/// Everything must happen within this time; nothing waits for it when all is well.
const SOON: Duration = Duration::from_secs(30);

/// A Python that has what `requirements.txt` lists: the one `make setup` made, or one that is named.
fn python() -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/python/bin/python");
    std::env::var_os("PRESENCE_TEST_PYTHON")
        .map_or_else(|| own.exists().then_some(own), |named| Some(named.into()))
}

struct Client<'a> {
    python: &'a Path,
    folder: &'a Path,
}

impl Client<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples/python/watch.py");
        let mut command = Command::new(self.python);
        command
            .arg("-B")
            .arg(script)
            .args(arguments)
            .current_dir(self.folder);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command
    }

    /// Runs to the end.
    fn run(&self, arguments: &[&str], input: &str) -> (Option<i32>, Vec<Value>) {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (
            output.status.code(),
            text.lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect(),
        )
    }

    fn start(&self, arguments: &[&str]) -> Running {
        let mut child = self.command(arguments).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::sync_channel(1024);
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if sender.send(serde_json::from_str(&line).unwrap()).is_err() {
                    return;
                }
            }
        });
        Running { child, lines }
    }
}

struct Running {
    child: Child,
    lines: mpsc::Receiver<Value>,
}

impl Running {
    /// Waits for a line, past all others.
    fn line(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        loop {
            match self.lines.recv_timeout(SOON) {
                Ok(line) if is_it(&line) => return line,
                Ok(_) => {}
                Err(e) => panic!("{what}: {e}"),
            }
        }
    }

    fn event(&self, name: &str) -> Value {
        self.line(name, |line| line["event"] == name)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn of<'a>(lines: &'a [Value], event: &str, upn: &str) -> &'a Value {
    let found = lines
        .iter()
        .find(|line| line["event"] == event && line["upn"] == upn);
    found.unwrap_or_else(|| panic!("no {event} of {upn} in {lines:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_third_party_client_enrols_watches_and_resumes() {
    let Some(python) = python() else {
        eprintln!("skipped: no Python with grpcio; run `make setup`");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let settings = WorldSettings {
        interval: Duration::from_secs(1),
        ..WorldSettings::default()
    };
    let mut world = World::start(folder.path(), settings).await.unwrap();
    let spec = TenantSpec {
        id: None,
        domain: "contoso.example".into(),
        name: "Contoso".into(),
        people: 3,
    };
    let tenant = world
        .add_tenant(spec, ConnectionKind::Organisation)
        .await
        .unwrap();
    let people = tenant.people();
    let (ann, bob) = (people[0].upn.as_str(), people[1].upn.as_str());
    tenant.set_presence(ann, "Busy", "InACall");
    tenant.set_presence(bob, "Available", "Available");
    let client = Client {
        python: &python,
        folder: folder.path(),
    };

    let cloud = format!("http://{}", world.grpc_address());
    let code = world.invite(tenant.id()).await.unwrap();
    let (status, lines) = client.run(
        &["enroll", "--cloud", &cloud, "--name", "python"],
        code.expose(),
    );
    assert_eq!((status, &lines[0]["event"]), (Some(0), &"enrolled".into()));
    assert_eq!(lines[0]["tenant_id"], tenant.id().to_string());

    let (status, lines) = client.run(&["get", ann, "nobody@contoso.example"], "");
    assert_eq!(status, Some(0));
    let value = of(&lines, "presence", ann);
    assert_eq!(
        (&value["availability"], &value["activity"]),
        (&"Busy".into(), &"InACall".into())
    );
    assert_eq!(
        of(&lines, "coverage", "nobody@contoso.example")["state"],
        "not found"
    );

    let (status, lines) = client.run(
        &[
            "watch", ann, bob, "--count", "2", "--keep", "kept", "--for", "30",
        ],
        "",
    );
    assert_eq!(status, Some(0));
    assert_eq!(of(&lines, "presence", bob)["availability"], "Available");

    let watching = client.start(&["watch", ann, bob, "--keep", "kept"]);
    assert_eq!(watching.event("connected")["resumed"], true);
    watching.line("everybody is fresh", |line| {
        line["event"] == "heartbeat" && line["fresh"] == 2
    });
    tenant.set_presence(ann, "DoNotDisturb", "Presenting");
    let change = watching.event("presence");
    assert_eq!(
        (&change["upn"], &change["activity"]),
        (&ann.into(), &"Presenting".into())
    );
    assert_eq!(
        (&change["snapshot"], &change["fresh"]),
        (&false.into(), &true.into())
    );

    world.stop_cloud().await;
    watching.event("disconnected");
    tenant.set_presence(bob, "Away", "Away");
    world.start_cloud().await.unwrap();
    watching.event("connected");
    watching.line("what changed meanwhile", |line| {
        line["upn"] == bob && line["availability"] == "Away"
    });
    watching.line("everybody is fresh again", |line| {
        line["event"] == "heartbeat" && line["fresh"] == 2
    });
}
