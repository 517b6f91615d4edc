//! Every `presence-cloud …` and `presence-agent …` that a document quotes is one the program understands.

use std::path::Path;
use std::process::Command;

/// What stands between backticks, and the lines of fenced blocks.
fn code(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut fenced = false;
    let mut prose = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced {
            found.push(line.trim().to_owned());
        } else {
            prose.push_str(line);
            prose.push('\n');
        }
    }
    // Code in prose may go on in the next line.
    let spans = prose.split('`').skip(1).step_by(2);
    found.extend(spans.map(|span| span.split_whitespace().collect::<Vec<_>>().join(" ")));
    found
}

#[test]
fn every_quoted_command_line_is_understood() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = vec![root.join("README.md")];
    for entry in std::fs::read_dir(root.join("docs")).unwrap() {
        files.extend(
            [entry.unwrap().path()]
                .into_iter()
                .filter(|p| p.extension().is_some_and(|e| e == "md")),
        );
    }
    let mut tried = 0;
    for file in files {
        for line in code(&std::fs::read_to_string(&file).unwrap()) {
            let line = line.replace("<id>", "8f14e45f-ceea-4671-a5c4-2d6b1f0e9a11");
            let program = match line.split(' ').next() {
                Some("presence-cloud") => env!("CARGO_BIN_EXE_presence-cloud"),
                Some("presence-agent") => env!("CARGO_BIN_EXE_presence-agent"),
                _ => continue,
            };
            // Up to a comment or what the shell does with it. Names and values are looked at. What is missing is not: `--help` comes before that.
            let arguments = line
                .split_whitespace()
                .skip(1)
                .take_while(|word| !["#", "|", ">", "<", "&&", "…"].contains(word));
            let output = Command::new(program).args(arguments).arg("--help").output();
            let output = output.unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(
                output.status.success(),
                "{}: {line}\n{said}",
                file.display()
            );
            tried += 1;
        }
    }
    assert!(tried > 20, "only {tried} command lines were found");
}
