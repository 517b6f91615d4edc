//! The systemd units: well-formed, and as closed as they are meant to be. Judged by systemd's own tool, without a running systemd.

use std::path::Path;
use std::process::Command;

/// Exposure as `systemd-analyze security` counts it, 0 to 100.
const MOST_EXPOSED: &str = "--threshold=15";

fn judged(folder: &Path, unit: &str, arguments: &[&str]) {
    let output = Command::new("systemd-analyze")
        .args(arguments)
        .arg(folder.join(unit))
        .output()
        .expect("systemd-analyze is there; scripts/setup installs it");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{unit} {arguments:?}:\n{said}");
}

#[test]
fn both_units_are_well_formed_and_closed() {
    let folder = tempfile::tempdir().unwrap();
    for (unit, text, program) in [
        (
            "presence-cloud.service",
            include_str!("../../deploy/presence-cloud.service"),
            env!("CARGO_BIN_EXE_presence-cloud"),
        ),
        (
            "presence-agent.service",
            include_str!("../../deploy/presence-agent.service"),
            env!("CARGO_BIN_EXE_presence-agent"),
        ),
    ] {
        let installed = format!("/usr/local/bin/{}", unit.trim_end_matches(".service"));
        assert!(text.contains(&format!("ExecStart={installed} ")), "{unit}");
        // The program has to be there to be found executable.
        let text = text.replace(
            &format!("ExecStart={installed} "),
            &format!("ExecStart={program} "),
        );
        std::fs::write(folder.path().join(unit), text).unwrap();
        judged(folder.path(), unit, &["verify", "--man=no"]);
        let security = ["security", "--offline=true", "--no-pager", MOST_EXPOSED];
        judged(folder.path(), unit, &security);
    }
}
