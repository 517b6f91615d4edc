//! `deploy/Dockerfile`, read as text: there is no engine here that could build it. Its cargo commands are run for real, in a folder that
//! holds nothing but what the image's build would have.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::program::Program;
use crate::support::stage::{Stage, quick};

const DOCKERFILE: &str = include_str!("../../deploy/Dockerfile");
const IGNORE: &str = include_str!("../../.dockerignore");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// `(instruction, rest)`, with continued lines joined.
fn instructions() -> Vec<(String, String)> {
    let mut all = Vec::new();
    let mut line = String::new();
    for part in DOCKERFILE.lines() {
        if part.starts_with('#') || part.trim().is_empty() {
            continue;
        }
        if let Some(part) = part.strip_suffix('\\') {
            line.push_str(part);
            continue;
        }
        line.push_str(part);
        let (word, rest) = line.split_once(' ').unwrap();
        all.push((word.to_owned(), rest.trim().to_owned()));
        line.clear();
    }
    assert!(line.is_empty(), "the last line is continued: {line}");
    all
}

/// The instructions of the stage with that name.
fn stage(name: &str) -> Vec<(String, String)> {
    let found: Vec<_> = instructions()
        .into_iter()
        .skip_while(|(word, rest)| word != "FROM" || !rest.ends_with(&format!(" AS {name}")))
        .enumerate()
        .take_while(|(n, (word, _))| *n == 0 || word != "FROM")
        .map(|(_, instruction)| instruction)
        .collect();
    assert!(!found.is_empty(), "there is no stage {name}");
    found
}

fn argument(name: &str) -> String {
    let start = format!("{name}=");
    let found = instructions().into_iter().find_map(|(word, rest)| {
        let value = rest.strip_prefix(&start)?;
        (word == "ARG").then(|| value.to_owned())
    });
    found.unwrap_or_else(|| panic!("ARG {name} has no value"))
}

/// Paths that `.dockerignore` lets through.
fn let_through() -> Vec<&'static str> {
    let mut lines = IGNORE
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    assert_eq!(lines.next(), Some("*"), "first everything is left out");
    lines
        .map(|line| {
            line.strip_prefix('!')
                .unwrap_or_else(|| panic!("only exceptions follow: {line}"))
        })
        .collect()
}

/// What a stage copies out of the context: sources, and where to.
fn copied(stage_name: &str) -> Vec<(Vec<String>, String)> {
    stage(stage_name)
        .into_iter()
        .filter(|(word, rest)| word == "COPY" && !rest.starts_with("--from="))
        .map(|(_, rest)| {
            let mut words: Vec<String> = rest.split_whitespace().map(str::to_owned).collect();
            let to = words.pop().unwrap();
            (words, to)
        })
        .collect()
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(from, to).unwrap();
    }
}

#[test]
fn bases_are_pinned_and_the_toolchain_is_ours() {
    let pinned: toml::Table = include_str!("../../rust-toolchain.toml").parse().unwrap();
    let channel = pinned["toolchain"]["channel"].as_str().unwrap();
    assert_eq!(argument("RUST_VERSION"), channel);
    let mut stages = BTreeSet::new();
    for (word, rest) in instructions() {
        if word != "FROM" {
            continue;
        }
        let (base, name) = rest.split_once(" AS ").expect("every stage has a name");
        let pinned = stages.contains(base)
            || base == "rust:${RUST_VERSION}-slim-${DEBIAN_RELEASE}"
            || base == "debian:${DEBIAN_RELEASE}-slim";
        assert!(pinned, "{base} is not pinned");
        stages.insert(name.to_owned());
    }
    assert_eq!(argument("DEBIAN_RELEASE"), "bookworm");
    // An argument from before the first stage counts in a stage that names it.
    assert!(stage("build").contains(&("ARG".into(), "RUST_VERSION".into())));
}

#[test]
fn nothing_is_fetched_but_bases_and_crates_and_nothing_secret_is_copied() {
    for (word, rest) in instructions() {
        assert_ne!(word, "ADD", "{rest}");
        for wrong in [
            "curl",
            "wget",
            "apt-get",
            "http://",
            "https://",
            "--mount=type=secret",
        ] {
            assert!(!rest.contains(wrong), "{word} {rest}");
        }
    }
    for (sources, _) in ["build", "base", "agent", "cloud"]
        .into_iter()
        .flat_map(copied)
    {
        for source in sources {
            assert!(root().join(&source).exists(), "{source} is not there");
            let path = Path::new(&source);
            let known = let_through().into_iter().any(|open| path.starts_with(open));
            assert!(known, ".dockerignore leaves out {source}");
        }
    }
    for open in let_through() {
        assert!(
            root().join(open).exists(),
            ".dockerignore names {open}, which is not there"
        );
        assert!(
            !open.starts_with("target") && !open.starts_with('.'),
            "{open}"
        );
    }
}

#[test]
fn both_images_run_one_program_as_a_user_without_rights() {
    for (name, program) in [("cloud", "presence-cloud"), ("agent", "presence-agent")] {
        let path = format!("/usr/local/bin/{program}");
        let stage = stage(name);
        let rest = |wanted: &str| -> Vec<&str> {
            let of = stage.iter().filter(|(word, _)| word == wanted);
            of.map(|(_, rest)| rest.as_str()).collect()
        };
        let [user] = rest("USER")[..] else {
            panic!("{name}: one USER")
        };
        let ids: Vec<u32> = user
            .split(':')
            .map(|id| id.parse().expect("a number"))
            .collect();
        assert!(ids.len() == 2 && !ids.contains(&0), "{name}: {user}");
        let copies = rest("COPY");
        assert!(copies.contains(&format!("--from=build /out/{program} {path}").as_str()));
        let volume = format!("/var/lib/{program}");
        let owned = format!("--from=build --chown={user} /state {volume}");
        assert!(copies.contains(&owned.as_str()), "{name}");
        assert_eq!(rest("VOLUME"), [format!("[\"{volume}\"]")]);
        let [entry] = rest("ENTRYPOINT")[..] else {
            panic!("{name}: one ENTRYPOINT")
        };
        assert!(entry.starts_with(&format!("[\"{path}\"")), "{entry}");
        assert!(
            rest("RUN").is_empty(),
            "{name}: nothing is run in what is shipped"
        );
    }
    // A Dockerfile without a target named builds its last stage.
    let last = instructions().into_iter().rfind(|(word, _)| word == "FROM");
    assert!(last.unwrap().1.ends_with(" AS cloud"));
}

#[test]
fn the_build_has_all_that_cargo_needs() {
    let build = stage("build");
    let (_, run) = build
        .iter()
        .find(|(word, rest)| word == "RUN" && rest.contains("cargo build"))
        .unwrap();
    let start = run.find("cargo build").unwrap();
    let command = run[start..].split("&&").next().unwrap().trim();
    assert!(
        command.contains(" --locked ") && command.contains(" --profile dist "),
        "{command}"
    );
    for program in ["presence-cloud", "presence-agent"] {
        assert!(command.contains(&format!("--bin {program}")), "{command}");
        assert!(run.contains(&format!("target/dist/{program}")), "{run}");
    }
    // The context as it is sent, then the stage's own copies of it.
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("image");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).unwrap();
    }
    let (context, source) = (folder.join("context"), folder.join("source"));
    for open in let_through() {
        copy(&root().join(open), &context.join(open));
    }
    for (sources, to) in copied("build") {
        for from in sources {
            let to = if to == "./" { &from } else { &to };
            copy(&context.join(&from), &source.join(to));
        }
    }
    // Checked, not built, with what is compiled already: the same files are read.
    let arguments = command
        .replace("cargo build", "check --offline --quiet")
        .replace("--profile dist ", "");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let output = Command::new(env!("CARGO"))
        .args(arguments.split_whitespace())
        .current_dir(&source)
        .env("CARGO_TARGET_DIR", target)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {arguments}:\n{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_health_check_tells_a_serving_cloud_from_a_stopped_one() {
    let health = stage("cloud")
        .into_iter()
        .find(|(word, _)| word == "HEALTHCHECK");
    let (_, command) = health.unwrap();
    assert!(
        command.ends_with(r#"CMD ["/usr/local/bin/presence-cloud", "ready"]"#),
        "{command}"
    );
    let mut stage = Stage::new(quick()).await;
    stage.world.stop_cloud().await;
    let (code, said) = ready(stage.folder()).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("is presence-cloud serving?"), "{said}");
    let program = Program::serve(stage.folder());
    while ready(stage.folder()).await.0 != Some(0) {
        tokio::task::yield_now().await;
    }
    drop(program);
    assert_eq!(ready(stage.folder()).await.0, Some(1));
}

/// Exit code and output of `presence-cloud ready`.
async fn ready(folder: &Path) -> (Option<i32>, String) {
    let file = folder.join("cloud.toml");
    let output = tokio::task::spawn_blocking(move || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_presence-cloud"));
        command.arg("--config").arg(file).arg("ready");
        command.output().unwrap()
    });
    let output = output.await.unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}
