//! Who signs in to the operators' pages.

use anyhow::{Context as _, bail};
use clap::Subcommand;
use presence_bridge::cloud::operators::password;
use presence_bridge::config::cloud::CloudConfig;

use super::output::say;

#[derive(Subcommand)]
pub enum Operators {
    /// Reads a password from standard input, twice where somebody types it, and writes its hash to the file the configuration names.
    Password {
        /// Put it in the place of the one there is. All operators have to sign in again.
        #[arg(long)]
        replace: bool,
    },
}

pub fn operators_password(config: &CloudConfig, replace: bool) -> anyhow::Result<()> {
    let Some(file) = &config.operators.password_file else {
        bail!("say where: set password_file under [operators] in the configuration")
    };
    if file.exists() && !replace {
        bail!(
            "{} is there already; --replace makes a new password and ends all sessions",
            file.display()
        );
    }
    let asked = password::ask().context("cannot read the password")?;
    let typed =
        asked.context("the two are not the same, or it was given up; nothing was written")?;
    password::create(file, &typed, replace)?;
    say(&format!(
        "Wrote {}. Operators sign in at {}",
        file.display(),
        config.operators.public_url
    ));
    Ok(())
}
