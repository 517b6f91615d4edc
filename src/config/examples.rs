//! The example files and the code agree, both ways: every key that is read stands in its example with what it means, nothing else does, and
//! a default that is stated is the default.
//!
//! How an example writes a key: `key = …` is needed or sensible; `#:key = …` is the default; `# key = …` has no default, or not this one.
//! A whole table may be offered, too: `# [[section.array]]` with its keys below it.

use std::collections::BTreeSet;

use super::agent::{self, AgentConfig};
use super::cloud::{self, CloudConfig};
use super::load::Loader;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Plain,
    Default,
    Offered,
}

/// A line that holds a key or the name of a section.
struct Entry<'a> {
    mark: Mark,
    /// The line without its mark.
    text: &'a str,
    /// Which section of the file, counted; two tables of one array are two.
    block: usize,
    /// What it is for the loader: `section.key`; for an array of tables itself, too.
    name: Option<String>,
}

impl Entry<'_> {
    fn is_header(&self) -> bool {
        self.text.starts_with('[')
    }
}

struct Example<'a> {
    lines: Vec<&'a str>,
    /// An entry or prose, for each line.
    entries: Vec<Option<Entry<'a>>>,
}

/// The name in `[section]` or `[[section.array]]`, and whether it is an array.
fn header(text: &str) -> Option<(&str, bool)> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    let array = inner.strip_prefix('[').and_then(|i| i.strip_suffix(']'));
    let name = array.unwrap_or(inner);
    let plain = |c: char| c.is_ascii_lowercase() || c == '_' || c == '.';
    (!name.is_empty() && name.chars().all(plain)).then_some((name, array.is_some()))
}

/// The key in `key = value`.
fn key(text: &str) -> Option<&str> {
    let (key, _) = text.split_once(" = ")?;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    (!key.is_empty() && key.chars().all(plain)).then_some(key)
}

impl<'a> Example<'a> {
    fn read(text: &'a str) -> Self {
        let (mut section, mut block) = ("", 0);
        let lines: Vec<&str> = text.lines().collect();
        let mut entries = Vec::new();
        for line in &lines {
            let (mark, text) = if let Some(text) = line.strip_prefix("#:") {
                (Mark::Default, text)
            } else if let Some(text) = line.strip_prefix("# ") {
                (Mark::Offered, text)
            } else {
                (Mark::Plain, *line)
            };
            let name = if let Some((name, array)) = header(text) {
                section = name;
                block += 1;
                Some(array.then(|| name.to_owned()))
            } else {
                key(text).map(|key| Some(format!("{section}.{key}")))
            };
            entries.push(name.map(|name| Entry {
                mark,
                text,
                block,
                name,
            }));
        }
        Self { lines, entries }
    }

    /// The file with those entries switched on, besides what is on.
    fn with(&self, on: impl Fn(&Entry<'_>) -> bool) -> String {
        let mut text = String::new();
        for (line, entry) in self.lines.iter().zip(&self.entries) {
            let entry = entry.as_ref().filter(|entry| on(entry));
            text.push_str(entry.map_or(*line, |entry| entry.text));
            text.push('\n');
        }
        text
    }

    fn entries(&self) -> impl Iterator<Item = &Entry<'a>> {
        self.entries.iter().flatten()
    }

    fn names(&self) -> BTreeSet<String> {
        self.entries().filter_map(|e| e.name.clone()).collect()
    }
}

fn loader(text: &str, prefix: &str) -> Loader {
    Loader::from_text("the example", text, prefix, [])
        .unwrap_or_else(|e| panic!("{e}\nEach value belongs on one line.\n{text}"))
}

/// What holds with a text, written out; `Err` with the problems.
type Parse = fn(Loader) -> Result<String, String>;

fn cloud(loader: Loader) -> Result<String, String> {
    let config = CloudConfig::from_loader(loader).map_err(|e| e.to_string())?;
    Ok(format!("{config:#?}"))
}

fn agent(loader: Loader) -> Result<String, String> {
    let config = AgentConfig::from_loader(loader).map_err(|e| e.to_string())?;
    Ok(format!("{config:#?}"))
}

const EXAMPLES: [(&str, &str, &str, Parse); 2] = [
    (
        "cloud.example.toml",
        include_str!("../../deploy/cloud.example.toml"),
        cloud::ENV_PREFIX,
        cloud,
    ),
    (
        "agent.example.toml",
        include_str!("../../deploy/agent.example.toml"),
        agent::ENV_PREFIX,
        agent,
    ),
];

#[test]
fn every_key_that_is_read_stands_in_the_example_and_no_other() {
    for (file, text, prefix, parse) in EXAMPLES {
        let example = Example::read(text);
        // Everything at once contradicts itself, which is a problem to report and no reason not to ask.
        let loader = loader(&example.with(|_| true), prefix);
        let asked = loader.asked();
        let _ = parse(loader);
        let (read, written) = (asked.names(), example.names());
        let missing: Vec<_> = read.difference(&written).collect();
        let unknown: Vec<_> = written.difference(&read).collect();
        assert!(
            missing.is_empty() && unknown.is_empty(),
            "{file} lacks {missing:?}, and says {unknown:?}, which nobody reads"
        );
    }
}

#[test]
fn every_key_of_an_example_is_explained() {
    for (file, text, ..) in EXAMPLES {
        let example = Example::read(text);
        let mut explained = false;
        for (line, entry) in example.lines.iter().zip(&example.entries) {
            match entry {
                // Several keys may share the words above them.
                Some(entry) if entry.is_header() => {}
                Some(entry) => assert!(explained, "{file}: say above what this is: {}", entry.text),
                None => explained = line.starts_with("# "),
            }
        }
    }
}

#[test]
fn a_default_that_an_example_states_is_the_default() {
    for (file, text, prefix, parse) in EXAMPLES {
        let example = Example::read(text);
        let parsed = |on: &dyn Fn(&Entry<'_>) -> bool| {
            parse(loader(&example.with(|entry| on(entry)), prefix))
        };
        parsed(&|_| false).unwrap_or_else(|e| panic!("{file}: {e}"));
        let blocks = 1 + example.entries().map(|e| e.block).max().unwrap_or(0);
        for stated in example.entries().filter(|e| e.mark == Mark::Default) {
            // A default shows only where its section counts: with what is offered in it, and, where it needs another one, in that one.
            let mut tried = 0;
            for other in 0..blocks {
                let counts = |entry: &Entry<'_>| {
                    entry.mark == Mark::Offered && [stated.block, other].contains(&entry.block)
                };
                let Ok(without) = parsed(&counts) else {
                    continue;
                };
                let with = parsed(&|entry| counts(entry) || std::ptr::eq(entry, stated));
                assert_eq!(with.as_ref(), Ok(&without), "{file}: {}", stated.text);
                tried += 1;
            }
            assert!(
                tried > 0,
                "{file}: its section cannot be switched on: {}",
                stated.text
            );
        }
    }
}

#[test]
fn an_example_that_lies_is_found_out() {
    let (_, text, prefix, parse) = EXAMPLES[0];
    let lie = text.replace("#:interval = \"5s\"", "#:interval = \"6s\"");
    assert_ne!(lie, text);
    let (truth, lie) = (Example::read(text), Example::read(&lie));
    let poll = |e: &Entry<'_>| e.name.as_deref() == Some("poll.interval");
    let parsed = |example: &Example<'_>| parse(loader(&example.with(poll), prefix)).unwrap();
    assert_ne!(parsed(&truth), parsed(&lie));
    let names = truth.names();
    for name in ["microsoft.credential", "microsoft.credential.ends"] {
        assert!(names.contains(name), "{name}");
    }
}
