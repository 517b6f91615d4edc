//! Configuration of presence-agent. Every key, its meaning, unit and default: `deploy/agent.example.toml`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::load::{ConfigError, Loader};
use crate::telemetry::LogFormat;

/// Variables that override the file begin with this.
pub const ENV_PREFIX: &str = "PRESENCE_AGENT";

/// Configuration of presence-agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentConfig {
    /// Folder with the suite's key and identity; `None`: the usual one.
    pub state_dir: Option<PathBuf>,
    /// People to watch.
    pub upns: Vec<String>,
    /// A file with more of them.
    pub upns_file: Option<PathBuf>,
    /// Waits between tries to connect: base and cap.
    pub backoff: (Duration, Duration),
    /// A key older than this is replaced.
    pub renew_key_after: Duration,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which log lines are written.
    pub log_filter: String,
}

impl AgentConfig {
    /// Reads and checks a file. Every problem is reported, not only the first.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        Self::from_loader(Loader::read(path, ENV_PREFIX)?)
    }

    /// What holds without a file: the defaults and the environment.
    pub fn without_file() -> Result<Self, ConfigError> {
        let env = std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
        Self::from_loader(Loader::from_text("the environment", "", ENV_PREFIX, env)?)
    }

    /// Checks what was loaded.
    pub fn from_loader(mut loader: Loader) -> Result<Self, ConfigError> {
        const DAY: Duration = Duration::from_hours(24);
        let second = Duration::from_secs(1);
        let mut s = loader.section("cloud");
        let state_dir = s.path("state_dir");
        let base = s.duration_or("reconnect_after", second, Duration::from_millis(10)..=DAY);
        let cap = s.duration_or(
            "reconnect_at_most_after",
            Duration::from_mins(1),
            Duration::from_millis(10)..=DAY,
        );
        let renew_key_after = s.duration_or("renew_key_after", DAY * 90, DAY..=DAY * 3650);
        if cap < base {
            s.problem(
                "reconnect_at_most_after",
                "must not be shorter than reconnect_after",
            );
        }
        let mut s = loader.section("watch");
        let upns = s.text_list("upns");
        let upns_file = s.path("upns_file");
        let mut s = loader.section("log");
        let log_format = s.one_of(
            "format",
            &[("text", LogFormat::Text), ("json", LogFormat::Json)],
            LogFormat::Text,
        );
        let log_filter = s.log_filter_or("filter", "warn");
        loader.finish()?;
        Ok(Self {
            state_dir,
            upns,
            upns_file,
            backoff: (base, cap),
            renew_key_after,
            log_format,
            log_filter,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<AgentConfig, String> {
        let loader =
            Loader::from_text("agent.toml", text, ENV_PREFIX, []).map_err(|e| e.to_string())?;
        AgentConfig::from_loader(loader).map_err(|e| e.to_string())
    }

    #[test]
    fn the_example_parses_and_its_comments_show_the_defaults() {
        let text = include_str!("../../deploy/agent.example.toml");
        let plain = parse(text).unwrap();
        let all: String = text
            .lines()
            .map(|line| line.strip_prefix("#:").unwrap_or(line).to_owned() + "\n")
            .collect();
        assert_eq!(parse(&all).unwrap(), plain);
    }

    #[test]
    fn problems_are_told_together() {
        let problems =
            parse("[cloud]\nreconnect_after = \"2m\"\nstate = \"x\"\n[watch]\nupns = 5\n")
                .unwrap_err();
        for part in ["reconnect_at_most_after", "cloud.state", "watch.upns"] {
            assert!(problems.contains(part), "{part} is missing in {problems}");
        }
    }
}
