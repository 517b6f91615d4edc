//! From the first page to a lamp that is lit: what the pages show is what people use.

use std::process::{Command, Stdio};

use presence_bridge::agent::identity::Identity;

use crate::support::stage::{Stage, Watcher, quick, upns};
use crate::support::visitor::{Page, Visitor};
use presence_bridge::simulator::TenantSpec;

fn shown(page: &Page, id: &str) -> String {
    let (_, rest) = page.body.split_once(&format!("id=\"{id}\">")).unwrap();
    rest.split_once("</code>").unwrap().0.to_owned()
}

fn enrol(folder: &std::path::Path, arguments: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_presence-agent"))
        .current_dir(folder)
        .args(["enroll", "--state", "suite"])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lines_of_the_page_enrol_a_suite_and_presence_flows() {
    let stage = Stage::new(quick()).await;
    let tenant = stage.microsoft.add_tenant(TenantSpec {
        domain: "contoso.example".into(),
        name: "Contoso".into(),
        people: 5,
        ..TenantSpec::default()
    });
    let visitor = Visitor::new(&stage);
    let done = visitor.onboard(&tenant, "organisation").await;

    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("Presence.ini"), shown(&done, "ini")).unwrap();
    let output = enrol(folder.path(), &["--ini", "Presence.ini"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(said.contains("Contoso Ltd"), "{said}");

    let identity = Identity::load(&folder.path().join("suite")).unwrap();
    let suite = Watcher::new(stage.run_suite(identity, upns(&tenant)));
    suite.until_all_fresh().await;
    let status = visitor.open("/status").await.body;
    for expected in ["Connected", "All 5 people", "Reception", "connected now"] {
        assert!(
            status.contains(expected),
            "{expected} is missing in {status}"
        );
    }

    // The code is good once; a second suite has its own.
    std::fs::remove_dir_all(folder.path().join("suite")).unwrap();
    let again = enrol(folder.path(), &["--ini", "Presence.ini"]);
    assert!(!again.status.success(), "the code was used");
    let second = visitor.post("/status/suites", &[]).await;
    assert_ne!(shown(&second, "code"), shown(&done, "code"));
    std::fs::write(folder.path().join("code"), shown(&second, "code")).unwrap();
    let url = format!("http://{}", stage.grpc_address());
    assert!(shown(&second, "command").contains(&url));
    #[cfg(unix)]
    std::fs::set_permissions(
        folder.path().join("code"),
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )
    .unwrap();
    let second = enrol(
        folder.path(),
        &[
            "--cloud",
            &url,
            "--code-file",
            "code",
            "--name",
            "Back office",
        ],
    );
    assert!(
        second.status.success(),
        "{}",
        String::from_utf8_lossy(&second.stderr)
    );
    assert!(visitor.open("/status").await.body.contains("Back office"));
}
