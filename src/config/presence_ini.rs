//! `Presence.ini`: the lines an onboarding page shows, to be pasted into a file beside the suite.
//!
//! ```ini
//! [PresenceCloud]
//! Address=https://suites.example.com
//! EnrolmentCode=T2Q1-ANX4-R5P0-4WF0-QT4B
//! SuiteName=Reception
//! ```

use std::path::Path;

use configparser::ini::{Ini, IniDefault};
use url::Url;

use super::load::ConfigError;
use crate::secret::Secret;

const SECTION: &str = "PresenceCloud";

/// What the file says.
#[derive(Debug)]
pub struct PresenceIni {
    /// Where the cloud is.
    pub address: Url,
    /// The one-time enrolment code.
    pub code: Secret,
    /// Name of the suite for people.
    pub suite_name: Option<String>,
}

impl PresenceIni {
    /// Reads a file. Keys and section are found in any letter case; every problem is told.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|e| ConfigError::Read(name.clone(), e))?;
        Self::parse(&name, &text)
    }

    fn parse(name: &str, text: &str) -> Result<Self, ConfigError> {
        // The crate's defaults would cut values at # and ;.
        let mut rules = IniDefault::default();
        rules.inline_comment_symbols = Some(Vec::new());
        rules.delimiters = vec!['='];
        let mut ini = Ini::new_from_defaults(rules);
        ini.read(text.trim_start_matches('\u{feff}').to_owned())
            .map_err(|e| ConfigError::Syntax(name.to_owned(), e))?;
        let mut problems = Vec::new();
        let value = |key: &str| {
            let found = ini.get(SECTION, key).map(|v| v.trim().to_owned());
            found.filter(|v| !v.is_empty())
        };
        let address = match value("Address").as_deref().map(Url::parse) {
            Some(Ok(url)) if matches!(url.scheme(), "http" | "https") && url.has_host() => {
                Some(url)
            }
            Some(_) => {
                problems.push(format!(
                    "{SECTION}.Address: must be an address such as https://suites.example.com"
                ));
                None
            }
            None => {
                problems.push(format!(
                    "{SECTION}.Address: is missing; take the lines from the page as they are"
                ));
                None
            }
        };
        let code = value("EnrolmentCode");
        if code.is_none() {
            problems.push(format!(
                "{SECTION}.EnrolmentCode: is missing; take the lines from the page as they are"
            ));
        }
        match (address, code) {
            (Some(address), Some(code)) => Ok(Self {
                address,
                code: Secret::new(code),
                suite_name: value("SuiteName"),
            }),
            _ => Err(ConfigError::Problems {
                file: name.to_owned(),
                problems,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pasted_lines_are_read_whatever_editor_has_touched_them() {
        let text = "\u{feff}; from the page\r\n[presencecloud]\r\nAddress = https://suites.example.com/\r\nenrolmentcode=T2Q1-ANX4\r\nSuiteName=Front; desk #1\r\n";
        let ini = PresenceIni::parse("Presence.ini", text).unwrap();
        assert_eq!(ini.address.as_str(), "https://suites.example.com/");
        assert_eq!(ini.code.expose(), "T2Q1-ANX4");
        assert_eq!(ini.suite_name.as_deref(), Some("Front; desk #1"));
    }

    #[test]
    fn what_is_missing_is_told_at_once() {
        let problems = PresenceIni::parse("Presence.ini", "[PresenceCloud]\nAddress=ftp://x\n")
            .unwrap_err()
            .to_string();
        assert!(
            problems.contains("Address") && problems.contains("EnrolmentCode"),
            "{problems}"
        );
        assert!(PresenceIni::parse("Presence.ini", "").is_err());
    }
}
