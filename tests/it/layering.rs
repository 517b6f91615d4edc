//! Each stage knows the vocabulary and its neighbour, nothing more. Held by reading the source.

use std::path::{Path, PathBuf};

fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

/// The part of the product a file belongs to: the first name below `src/`.
fn part(path: &Path) -> String {
    let below = path
        .strip_prefix(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))
        .unwrap();
    below
        .components()
        .next()
        .unwrap()
        .as_os_str()
        .to_str()
        .unwrap()
        .trim_end_matches(".rs")
        .to_owned()
}

#[test]
fn parts_use_only_what_they_may() {
    let rules: &[(&str, &[&str])] = &[
        (
            "model",
            &[
                "agent",
                "cloud",
                "microsoft",
                "simulator",
                "wire",
                "world",
                "config",
                "clock",
            ],
        ),
        (
            "wire",
            &[
                "agent",
                "cloud",
                "microsoft",
                "simulator",
                "world",
                "config",
                "clock",
            ],
        ),
        (
            "microsoft",
            &["agent", "cloud", "simulator", "wire", "world", "config"],
        ),
        (
            "simulator",
            &["agent", "cloud", "microsoft", "wire", "world", "config"],
        ),
        ("agent", &["cloud", "microsoft", "simulator", "world"]),
        ("cloud", &["agent", "simulator", "world"]),
    ];
    let (mut files, mut wrong) = (Vec::new(), Vec::new());
    sources(
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")),
        &mut files,
    );
    assert!(files.len() > 50);
    for file in &files {
        let own = part(file);
        let Some((_, forbidden)) = rules.iter().find(|(name, _)| *name == own) else {
            continue;
        };
        let text = std::fs::read_to_string(file).unwrap();
        for other in *forbidden {
            if text.contains(&format!("crate::{other}::"))
                || text.contains(&format!("crate::{{{other}"))
            {
                wrong.push(format!("{} uses {other}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
