//! `deploy/entra-app.sh` with a stand-in for `az`: it asks before it writes, may run twice, and registers what the code asks for.

use std::path::Path;
use std::process::{Command, Output};

use presence_bridge::cloud::onboarding::PERMISSIONS;

const SCRIPT: &str = include_str!("../../deploy/entra-app.sh");
const GUIDE: &str = include_str!("../../docs/onboarding-guide.md");

/// Remembers one application and its certificate in files, and every call.
const AZ: &str = r#"#!/bin/sh
echo "$*" >>"$STATE/calls"
case "$*" in
"ad app list "*) cat "$STATE/app" 2>/dev/null ;;
"ad app create "*) echo 11111111-2222-4333-8444-555555555555 | tee "$STATE/app" ;;
"ad app update "*) echo '{}' ;;
"ad app credential list "*) cat "$STATE/certificates" 2>/dev/null ;;
"ad app credential reset "*) cat "$STATE/thumbprint" >>"$STATE/certificates"; echo '{"password": "do-not-show"}' ;;
*) exit 9 ;;
esac
exit 0
"#;

fn script(folder: &Path, arguments: &[&str]) -> Output {
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    Command::new("bash")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/entra-app.sh"))
        .args(arguments)
        .current_dir(folder)
        .env("PATH", path)
        .env("STATE", folder)
        .output()
        .unwrap()
}

/// A folder with `az` and a certificate.
fn prepared() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let az = folder.path().join("az");
    std::fs::write(&az, AZ).unwrap();
    std::fs::set_permissions(&az, std::fs::Permissions::from_mode(0o755)).unwrap();
    let made = rcgen::generate_simple_self_signed(["presence-cloud".to_owned()]).unwrap();
    std::fs::write(folder.path().join("app.pem"), made.cert.pem()).unwrap();
    std::fs::write(
        folder.path().join("app.key"),
        made.signing_key.serialize_pem(),
    )
    .unwrap();
    let thumbprint = Command::new("sh")
        .args([
            "-c",
            "openssl x509 -in app.pem -noout -fingerprint -sha1 | cut -d= -f2 | tr -d :",
        ])
        .current_dir(folder.path())
        .output()
        .unwrap();
    std::fs::write(folder.path().join("thumbprint"), thumbprint.stdout).unwrap();
    folder
}

const GOOD: [&str; 4] = [
    "--public-url",
    "https://connect.example.com",
    "--certificate",
    "app.pem",
];

fn calls(folder: &Path, of: &str) -> usize {
    let calls = std::fs::read_to_string(folder.join("calls")).unwrap_or_default();
    calls.lines().filter(|line| line.starts_with(of)).count()
}

#[test]
fn a_dry_run_writes_nothing_and_a_second_run_makes_nothing_twice() {
    let folder = prepared();
    let folder = folder.path();
    let said = |output: Output| {
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.success(), "{text}");
        assert!(!text.contains("do-not-show"), "{text}");
        text
    };
    let text = said(script(folder, &GOOD));
    assert!(
        text.contains("would create the application \"Presence Bridge\""),
        "{text}"
    );
    for writing in ["ad app create", "ad app update", "ad app credential reset"] {
        assert_eq!(calls(folder, writing), 0, "{writing}");
    }
    let apply = [&GOOD[..], &["--apply"]].concat();
    for run in 1..=2 {
        let text = said(script(folder, &apply));
        let line = "client_id = \"11111111-2222-4333-8444-555555555555\"";
        assert!(text.contains(line), "{text}");
        assert_eq!(calls(folder, "ad app create"), 1);
        assert_eq!(calls(folder, "ad app credential reset"), 1);
        assert_eq!(calls(folder, "ad app update"), run);
    }
    let calls = std::fs::read_to_string(folder.join("calls")).unwrap();
    for part in [
        "--web-redirect-uris https://connect.example.com/callback",
        "groupMembershipClaims=DirectoryRole",
        "AzureADMultipleOrgs",
    ] {
        assert!(calls.contains(part), "{part} is missing in\n{calls}");
    }
}

#[test]
fn wrong_input_is_refused_before_anything_is_asked() {
    let folder = prepared();
    for wrong in [
        [
            "--public-url",
            "http://connect.example.com",
            "--certificate",
            "app.pem",
        ],
        [
            "--public-url",
            "https://connect.example.com/x",
            "--certificate",
            "app.pem",
        ],
        [
            "--public-url",
            "https://connect.example.com",
            "--certificate",
            "app.key",
        ],
        [
            "--public-url",
            "https://connect.example.com",
            "--certificate",
            "az",
        ],
        [
            "--public-url",
            "https://connect.example.com",
            "--certificate",
            "none.pem",
        ],
    ] {
        let output = script(folder.path(), &wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(
            String::from_utf8_lossy(&output.stderr).starts_with("entra-app.sh: "),
            "{wrong:?}"
        );
    }
    assert_eq!(calls(folder.path(), ""), 0);
}

#[test]
fn script_guide_and_code_name_the_same_permissions() {
    let mut registered = Vec::new();
    for line in SCRIPT.lines() {
        if let Some((id, name)) = line.trim().split_once(" # ")
            && uuid::Uuid::try_parse(id).is_ok()
        {
            let row = GUIDE
                .lines()
                .find(|row| row.trim().starts_with(&format!("| {name} | `")));
            assert!(row.is_some_and(|row| row.contains(id)), "{name} {id}");
            registered.push(name);
        }
    }
    let oidc = ["openid", "profile", "offline_access"];
    let wanted = [&PERMISSIONS[..], &oidc, &PERMISSIONS].concat();
    assert_eq!(registered, wanted);
}

#[test]
fn the_script_is_clean() {
    let output = Command::new("shellcheck")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/entra-app.sh"))
        .output()
        .expect("shellcheck is there; scripts/setup installs it");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}
