//! How the commands speak.

use std::io::Write as _;
use std::process::ExitCode;

pub fn failed(error: &anyhow::Error) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "presence-cloud: {error:#}");
    ExitCode::FAILURE
}

pub fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
