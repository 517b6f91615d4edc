//! The one loader of both binaries: TOML, overridden by the environment, with every problem told at once.
//!
//! A configuration is read key by key. An accessor never fails: it notes what is wrong and gives the default, so that the person who
//! mends the file sees everything in one go. What nobody asked for is a mistake too, most often a typing error.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use url::Url;
use uuid::Uuid;

use crate::model::Timestamp;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {0}: {1}")]
    Read(String, std::io::Error),
    /// The file is not TOML.
    #[error("{0} is not well-formed: {1}")]
    Syntax(String, String),
    /// Some keys are wrong, one line each.
    #[error("{file} has {} to mend:{}", count(.problems.len()), lines(.problems))]
    Problems {
        /// The file.
        file: String,
        /// `key: what is wrong`.
        problems: Vec<String>,
    },
}

fn count(n: usize) -> String {
    if n == 1 {
        "one problem".into()
    } else {
        format!("{n} problems")
    }
}

fn lines(problems: &[String]) -> String {
    let mut text = String::new();
    for problem in problems {
        text.push_str("\n  - ");
        text.push_str(problem);
    }
    text
}

#[derive(Debug, Clone)]
enum Value {
    Toml(toml::Value),
    /// From this variable; text, whatever the key wants.
    Variable(String, String),
}

/// The keys a reader has asked for, by section. A look that stays good after the configuration is read, so that what is written about
/// the keys can be held against what the code reads.
#[derive(Debug, Clone, Default)]
pub struct AskedKeys(Rc<RefCell<BTreeMap<String, BTreeSet<String>>>>);

impl AskedKeys {
    /// `section.key` for each. The tables of an array count once, as `section.array.key`; the array itself is a key of its section.
    pub fn names(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for (section, keys) in self.0.borrow().iter() {
            let section = section
                .split_once('[')
                .map_or(&**section, |(array, _)| array);
            names.extend(keys.iter().map(|key| format!("{section}.{key}")));
        }
        names
    }

    fn note_section(&self, section: &str) {
        self.0.borrow_mut().entry(section.to_owned()).or_default();
    }

    fn note(&self, section: &str, key: &str) {
        let mut asked = self.0.borrow_mut();
        asked
            .entry(section.to_owned())
            .or_default()
            .insert(key.to_owned());
    }
}

/// A configuration that is being read.
#[derive(Debug)]
pub struct Loader {
    file: String,
    folder: PathBuf,
    /// section → key → value
    values: BTreeMap<String, BTreeMap<String, Value>>,
    asked: AskedKeys,
    problems: Vec<String>,
}

impl Loader {
    /// Reads a file and the process's environment.
    pub fn read(path: &Path, env_prefix: &str) -> Result<Self, ConfigError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|e| ConfigError::Read(name.clone(), e))?;
        let env = std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
        let mut loader = Self::from_text(&name, &text, env_prefix, env)?;
        loader.folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
        Ok(loader)
    }

    /// From a text and variables. Variables `PREFIX__SECTION__KEY` override keys; others are not looked at.
    pub fn from_text(
        file: &str,
        text: &str,
        env_prefix: &str,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
            ConfigError::Syntax(file.to_owned(), e.to_string().trim_end().to_owned())
        })?;
        let mut loader = Self {
            file: file.to_owned(),
            folder: PathBuf::new(),
            values: BTreeMap::new(),
            asked: AskedKeys::default(),
            problems: Vec::new(),
        };
        for (section, value) in table {
            match value {
                toml::Value::Table(keys) => {
                    let keys = keys
                        .into_iter()
                        .map(|(key, value)| (key, Value::Toml(value)));
                    loader.values.insert(section, keys.collect());
                }
                _ => loader.problem(
                    &section,
                    "stands outside of any section; sections look like [section]",
                ),
            }
        }
        let prefix = format!("{env_prefix}__");
        for (variable, text) in env {
            let Some(path) = variable.strip_prefix(&prefix) else {
                continue;
            };
            match path.to_ascii_lowercase().split_once("__") {
                Some((section, key)) => {
                    let value = Value::Variable(variable.clone(), text);
                    loader
                        .values
                        .entry(section.to_owned())
                        .or_default()
                        .insert(key.to_owned(), value);
                }
                None => loader.problem(&variable, format!("should look like {prefix}SECTION__KEY")),
            }
        }
        Ok(loader)
    }

    /// Reads the keys of a section, which may be missing.
    pub fn section(&mut self, name: &str) -> Section<'_> {
        self.asked.note_section(name);
        Section {
            loader: self,
            name: name.to_owned(),
        }
    }

    /// The tables of an array, written `[[section.key]]`: the name of a section for each of them.
    pub fn tables(&mut self, section: &str, key: &str) -> Vec<String> {
        const WHAT: &str = "must be written as tables:";
        let mut s = self.section(section);
        let items = match s.take(key) {
            None => return Vec::new(),
            Some(Value::Toml(toml::Value::Array(items))) => items,
            Some(_) => {
                s.problem(key, format!("{WHAT} [[{section}.{key}]]"));
                return Vec::new();
            }
        };
        let mut names = Vec::new();
        for (n, item) in items.into_iter().enumerate() {
            let toml::Value::Table(keys) = item else {
                let mut s = self.section(section);
                s.problem(key, format!("{WHAT} [[{section}.{key}]]"));
                continue;
            };
            let name = format!("{section}.{key}[{}]", n + 1);
            let keys = keys.into_iter().map(|(k, v)| (k, Value::Toml(v)));
            self.values.insert(name.clone(), keys.collect());
            names.push(name);
        }
        names
    }

    /// What was asked for, now and from now on.
    pub fn asked(&self) -> AskedKeys {
        self.asked.clone()
    }

    /// Notes something that is wrong with a key.
    pub fn problem(&mut self, key: &str, text: impl fmt::Display) {
        self.problems.push(format!("{key}: {text}"));
    }

    /// An error if anything was wrong, or anything is there that nobody asked for.
    pub fn finish(mut self) -> Result<(), ConfigError> {
        let values = std::mem::take(&mut self.values);
        let asked_keys = self.asked.clone();
        let all_asked = asked_keys.0.borrow();
        for (section, keys) in &values {
            let Some(asked) = all_asked.get(section) else {
                let hint = similar(section, all_asked.keys());
                self.problem(
                    &format!("[{section}]"),
                    format!("there is no such section{hint}"),
                );
                continue;
            };
            let unknown: Vec<(String, String)> = keys
                .keys()
                .filter(|key| !asked.contains(*key))
                .map(|key| (format!("{section}.{key}"), similar(key, asked)))
                .collect();
            for (key, hint) in unknown {
                self.problem(&key, format!("there is no such key{hint}"));
            }
        }
        if self.problems.is_empty() {
            return Ok(());
        }
        Err(ConfigError::Problems {
            file: self.file,
            problems: self.problems,
        })
    }
}

/// `; did you mean "x"?` when something known is close.
fn similar<'a>(wrong: &str, known: impl IntoIterator<Item = &'a String>) -> String {
    known
        .into_iter()
        .map(|known| (distance(wrong, known), known))
        .filter(|(distance, known)| *distance <= 1 + known.len() / 4)
        .min()
        .map(|(_, known)| format!("; did you mean \"{known}\"?"))
        .unwrap_or_default()
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, cb) in b.chars().enumerate() {
            let substituted = diagonal + usize::from(ca != cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

/// A duration as one writes it here.
fn written(duration: Duration) -> String {
    let ms = duration.as_millis();
    let units = [("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
    let whole = units
        .iter()
        .find(|(_, of)| ms >= *of && ms.is_multiple_of(*of));
    match whole {
        Some((unit, of)) => format!("{}{unit}", ms / of),
        None if ms == 0 => "0s".into(),
        None => format!("{ms}ms"),
    }
}

/// Reads `250ms`, `5s`, `10m`, `24h`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(split);
    let number: u64 = number.trim().parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3600).map(Duration::from_secs),
        _ => None,
    }
}

/// One section of a configuration.
pub struct Section<'a> {
    loader: &'a mut Loader,
    name: String,
}

impl Section<'_> {
    fn take(&mut self, key: &str) -> Option<Value> {
        self.loader.asked.note(&self.name, key);
        self.loader.values.get(&self.name)?.get(key).cloned()
    }

    /// Notes what is wrong with a key of this section.
    pub fn problem(&mut self, key: &str, text: impl fmt::Display) {
        let path = format!("{}.{key}", self.name);
        let from = match self
            .loader
            .values
            .get(&self.name)
            .and_then(|keys| keys.get(key))
        {
            Some(Value::Variable(variable, _)) => format!(" (from the variable {variable})"),
            _ => String::new(),
        };
        self.loader.problem(&path, format!("{text}{from}"));
    }

    fn required(&mut self, key: &str, what: &str) {
        self.problem(key, format!("is missing; {what} is needed"));
    }

    fn parsed<T>(
        &mut self,
        key: &str,
        what: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let text = match self.take(key)? {
            Value::Toml(toml::Value::String(text)) | Value::Variable(_, text) => text,
            Value::Toml(other) => {
                self.problem(
                    key,
                    format!("must be {what} in quotes, not {}", other.type_str()),
                );
                return None;
            }
        };
        let parsed = parse(&text);
        if parsed.is_none() {
            self.problem(key, format!("\"{text}\" is not {what}"));
        }
        parsed
    }

    fn within<T: PartialOrd>(
        &mut self,
        key: &str,
        value: Option<T>,
        range: &RangeInclusive<T>,
        show: impl Fn(&T) -> String,
    ) -> Option<T> {
        let value = value?;
        if range.contains(&value) {
            return Some(value);
        }
        let (least, most) = (show(range.start()), show(range.end()));
        self.problem(
            key,
            format!(
                "is {}, but must be between {least} and {most}",
                show(&value)
            ),
        );
        None
    }

    /// A text.
    pub fn text(&mut self, key: &str) -> Option<String> {
        self.parsed(key, "a text", |text| Some(text.to_owned()))
    }

    /// A filter of log lines.
    pub fn log_filter_or(&mut self, key: &str, default: &str) -> String {
        let filter = self.text_or(key, default);
        if let Some(why) = crate::telemetry::filter_problem(&filter) {
            self.problem(
                key,
                format!("{filter:?} is no filter ({why}); write a level such as info, or info,presence_bridge=debug"),
            );
        }
        filter
    }

    /// A text.
    pub fn text_or(&mut self, key: &str, default: &str) -> String {
        self.text(key).unwrap_or_else(|| default.to_owned())
    }

    /// A text that must be there and not empty.
    pub fn required_text(&mut self, key: &str) -> String {
        match self.text(key) {
            Some(text) if !text.trim().is_empty() => text,
            _ => {
                self.required(key, "a text");
                String::new()
            }
        }
    }

    /// A list of texts; from a variable, separated by commas.
    pub fn text_list(&mut self, key: &str) -> Vec<String> {
        match self.take(key) {
            None => Vec::new(),
            Some(Value::Variable(_, text)) => text
                .split(',')
                .map(|part| part.trim().to_owned())
                .filter(|part| !part.is_empty())
                .collect(),
            Some(Value::Toml(toml::Value::Array(items))) => {
                let texts: Vec<String> = items
                    .iter()
                    .filter_map(|item| item.as_str().map(str::to_owned))
                    .collect();
                if texts.len() != items.len() {
                    self.problem(key, "must be a list of texts in quotes");
                }
                texts
            }
            Some(Value::Toml(other)) => {
                self.problem(
                    key,
                    format!("must be a list of texts, not {}", other.type_str()),
                );
                Vec::new()
            }
        }
    }

    /// A time span within a range.
    pub fn duration_or(
        &mut self,
        key: &str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let value = self.parsed(
            key,
            "a duration such as \"250ms\", \"5s\", \"10m\" or \"24h\"",
            parse_duration,
        );
        self.within(key, value, &range, |d| written(*d))
            .unwrap_or(default)
    }

    /// A whole number within a range.
    pub fn int_or(&mut self, key: &str, default: i64, range: RangeInclusive<i64>) -> i64 {
        let value = match self.take(key) {
            None => return default,
            Some(Value::Toml(toml::Value::Integer(value))) => Some(value),
            Some(Value::Variable(_, text)) => text.trim().parse().ok(),
            Some(Value::Toml(_)) => None,
        };
        if value.is_none() {
            self.problem(key, "must be a whole number");
        }
        self.within(key, value, &range, ToString::to_string)
            .unwrap_or(default)
    }

    /// A number within a range.
    pub fn float_or(&mut self, key: &str, default: f64, range: RangeInclusive<f64>) -> f64 {
        let value = match self.take(key) {
            None => return default,
            Some(Value::Toml(toml::Value::Float(value))) => Some(value),
            Some(Value::Toml(toml::Value::Integer(value))) => {
                i32::try_from(value).ok().map(f64::from)
            }
            Some(Value::Variable(_, text)) => text.trim().parse().ok(),
            Some(Value::Toml(_)) => None,
        };
        if value.is_none() {
            self.problem(key, "must be a number");
        }
        self.within(key, value, &range, ToString::to_string)
            .unwrap_or(default)
    }

    /// Yes or no.
    pub fn bool_or(&mut self, key: &str, default: bool) -> bool {
        let value = match self.take(key) {
            None => return default,
            Some(Value::Toml(toml::Value::Boolean(value))) => Some(value),
            Some(Value::Variable(_, text)) => text.trim().parse().ok(),
            Some(Value::Toml(_)) => None,
        };
        if value.is_none() {
            self.problem(key, "must be true or false");
        }
        value.unwrap_or(default)
    }

    /// An IP address with port.
    pub fn socket_addr(&mut self, key: &str) -> Option<SocketAddr> {
        self.parsed(
            key,
            "an address with port such as \"127.0.0.1:8443\"",
            |text| text.parse().ok(),
        )
    }

    /// Like [`Section::socket_addr`].
    pub fn socket_addr_or(&mut self, key: &str, default: SocketAddr) -> SocketAddr {
        self.socket_addr(key).unwrap_or(default)
    }

    /// An absolute http or https URL without user, query or fragment.
    pub fn url(&mut self, key: &str) -> Option<Url> {
        self.parsed(key, "a URL such as \"https://example.com\"", parse_root)
    }

    /// Like [`Section::url`].
    pub fn url_or(&mut self, key: &str, default: &str) -> Url {
        self.url(key).unwrap_or_else(|| {
            parse_root(default).expect("the default in the code is a well-formed URL")
        })
    }

    /// Like [`Section::url`], and must be there.
    pub fn required_url(&mut self, key: &str) -> Url {
        let there = self
            .loader
            .values
            .get(&self.name)
            .is_some_and(|keys| keys.contains_key(key));
        if !there {
            self.required(key, "a URL such as \"https://example.com\"");
        }
        self.url_or(key, "https://missing.invalid")
    }

    /// A path; relative ones start at the folder of the configuration file.
    pub fn path(&mut self, key: &str) -> Option<PathBuf> {
        let text = self.parsed(key, "a path", |text| {
            (!text.is_empty()).then(|| text.to_owned())
        })?;
        Some(self.loader.folder.join(text))
    }

    /// Like [`Section::path`], and must be there.
    pub fn required_path(&mut self, key: &str) -> PathBuf {
        let there = self
            .loader
            .values
            .get(&self.name)
            .is_some_and(|keys| keys.contains_key(key));
        if !there {
            self.required(key, "a path");
        }
        self.path(key).unwrap_or_default()
    }

    /// A UUID that must be there.
    pub fn required_uuid(&mut self, key: &str) -> Uuid {
        const WHAT: &str = "an id such as \"8f14e45f-ceea-4671-a5c4-2d6b1f0e9a11\"";
        let there = self
            .loader
            .values
            .get(&self.name)
            .is_some_and(|keys| keys.contains_key(key));
        if !there {
            self.required(key, WHAT);
        }
        self.parsed(key, WHAT, |text| Uuid::try_parse(text.trim()).ok())
            .unwrap_or_default()
    }

    /// A day, whose beginning in UTC counts.
    pub fn date(&mut self, key: &str) -> Option<Timestamp> {
        self.parsed(key, "a date such as \"2027-05-01\"", parse_date)
    }

    /// One of a few words.
    pub fn one_of<T: Copy>(&mut self, key: &str, words: &[(&str, T)], default: T) -> T {
        let list: Vec<String> = words
            .iter()
            .map(|(word, _)| format!("\"{word}\""))
            .collect();
        let what = format!("one of {}", list.join(", "));
        self.parsed(key, &what, |text| {
            words
                .iter()
                .find(|(word, _)| *word == text)
                .map(|(_, value)| *value)
        })
        .unwrap_or(default)
    }
}

fn parse_date(text: &str) -> Option<Timestamp> {
    let form = time::macros::format_description!("[year]-[month]-[day]");
    let date = time::Date::parse(text, form).ok()?;
    let moment = date.midnight().assume_utc();
    Some(Timestamp::from_secs(moment.unix_timestamp()))
}

fn parse_root(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let plain = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    plain.then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(24);

    fn loader(text: &str, env: &[(&str, &str)]) -> Loader {
        let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Loader::from_text("x.toml", text, "APP", env).unwrap()
    }

    #[test]
    fn a_duration_is_told_as_one_writes_it() {
        for text in ["250ms", "5s", "90s", "10m", "24h"] {
            assert_eq!(written(parse_duration(text).unwrap()), text);
        }
        assert_eq!(written(Duration::ZERO), "0s");
        assert_eq!(written(Duration::from_hours(24)), "24h");
    }

    #[test]
    fn every_kind_of_value_is_read() {
        let mut l = loader(
            r#"
            [a]
            text = "t"
            list = ["x", "y"]
            span = "10m"
            int = 7
            float = 1
            yes = true
            addr = "127.0.0.1:80"
            url = "https://example.com/x"
            id = "8f14e45f-ceea-4671-a5c4-2d6b1f0e9a11"
            path = "p"
            word = "two"
            "#,
            &[],
        );
        let mut a = l.section("a");
        assert_eq!(a.required_text("text"), "t");
        assert_eq!(a.text_list("list"), ["x", "y"]);
        assert_eq!(
            a.duration_or("span", Duration::ZERO, DAY),
            Duration::from_mins(10)
        );
        assert_eq!(a.int_or("int", 0, 0..=9), 7);
        assert!((a.float_or("float", 0.0, 0.0..=9.0) - 1.0).abs() < f64::EPSILON);
        assert!(a.bool_or("yes", false));
        assert_eq!(
            a.socket_addr_or("addr", ([0, 0, 0, 0], 1).into()).port(),
            80
        );
        assert_eq!(a.required_url("url").path(), "/x");
        assert_ne!(a.required_uuid("id"), Uuid::nil());
        assert_eq!(a.required_path("path"), PathBuf::from("p"));
        assert_eq!(a.one_of("word", &[("one", 1), ("two", 2)], 1), 2);
        assert_eq!(a.text_or("absent", "d"), "d");
        l.finish().unwrap();
    }

    #[test]
    fn variables_override_and_stay_text_until_a_type_is_wanted() {
        let mut l = loader(
            "[a]\nint = 1\nsecretish = \"x\"\n",
            &[
                ("APP__A__INT", "5"),
                ("APP__A__SECRETISH", "0123"),
                ("APP__A__LIST", "x, y"),
                ("OTHER", "z"),
            ],
        );
        let mut a = l.section("a");
        assert_eq!(
            (a.int_or("int", 0, 0..=9), a.text_or("secretish", "")),
            (5, "0123".into())
        );
        assert_eq!(a.text_list("list"), ["x", "y"]);
        l.finish().unwrap();
    }

    #[test]
    fn all_problems_are_listed_with_their_keys_and_what_is_expected() {
        let mut l = loader(
            "top = 1\n[poll]\nintervall = \"5s\"\nspan = \"5 parsecs\"\nint = \"x\"\nbig = 99\n[pol]\nx = 1\n",
            &[("APP__POLL__FLAG", "maybe"), ("APP__NONSENSE", "1")],
        );
        let mut s = l.section("poll");
        s.duration_or("interval", Duration::ZERO, DAY);
        s.duration_or("span", Duration::ZERO, DAY);
        s.int_or("int", 0, 0..=9);
        s.int_or("big", 0, 0..=9);
        s.bool_or("flag", false);
        s.required_url("url");
        let text = l.finish().unwrap_err().to_string();
        for line in [
            "x.toml has 9 problems to mend:",
            "top: stands outside of any section",
            "APP__NONSENSE: should look like APP__SECTION__KEY",
            "poll.intervall: there is no such key; did you mean \"interval\"?",
            "poll.span: \"5 parsecs\" is not a duration",
            "poll.int: must be a whole number",
            "poll.big: is 99, but must be between 0 and 9",
            "poll.flag: must be true or false (from the variable APP__POLL__FLAG)",
            "poll.url: is missing; a URL",
            "[pol]: there is no such section; did you mean \"poll\"?",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn tables_of_an_array_are_sections_of_their_own() {
        let text = "[a]\nx = 1\n[[a.t]]\nday = \"2027-05-01\"\n[[a.t]]\nday = \"tomorrow\"\nwhat = 1\n[b]\nt = 5\n";
        let mut l = loader(text, &[]);
        l.section("a").int_or("x", 0, 0..=9);
        let names = l.tables("a", "t");
        assert_eq!(names, ["a.t[1]", "a.t[2]"]);
        let days: Vec<_> = names.iter().map(|n| l.section(n).date("day")).collect();
        assert_eq!(days, [Some(Timestamp::from_secs(1_809_129_600)), None]);
        assert!(l.tables("b", "t").is_empty());
        assert!(l.tables("b", "none").is_empty());
        let text = l.finish().unwrap_err().to_string();
        for line in [
            "3 problems",
            "a.t[2].day: \"tomorrow\" is not a date",
            "a.t[2].what: there is no such key",
            "b.t: must be written as tables: [[b.t]]",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn a_syntax_error_tells_the_line() {
        let error = Loader::from_text("x.toml", "[a]\nb = = 1\n", "APP", [])
            .unwrap_err()
            .to_string();
        assert!(error.contains("line 2"), "{error}");
    }

    #[test]
    fn urls_carry_no_secrets_or_queries() {
        for bad in [
            "ftp://x",
            "https://u:p@x",
            "https://x?q=1",
            "https://x#f",
            "nonsense",
        ] {
            assert!(parse_root(bad).is_none(), "{bad}");
        }
    }
}
