//! The key that seals all credentials.

use std::path::Path;

use anyhow::bail;
use clap::Subcommand;
use presence_bridge::clock::Clock;
use presence_bridge::cloud::keys;
use presence_bridge::cloud::store::{Action, Actor, Deed, Store};
use presence_bridge::config::cloud::CloudConfig;
use presence_bridge::secret::KeyRing;

use super::output::say;

#[derive(Subcommand)]
pub enum Keys {
    /// Makes the key that seals all credentials, in the file the configuration names. Never overwrites one.
    Create,
    /// Shows the ids of the keys in the file, and how many tenants' data keys each of them wraps. Never a key.
    List,
    /// Makes a new key, puts it first in the file, and wraps every tenant's data key with it. The server may go on serving. Should it
    /// be interrupted, do it again. The earlier key stays in the file until `retire`.
    Rotate,
    /// Removes the earlier keys from the file, once no data key is wrapped by them any more. Backups from before need them: keep a
    /// copy as long as you keep those.
    Retire,
}

pub async fn keys(config: &CloudConfig, command: &Keys) -> anyhow::Result<()> {
    let file = &config.key_file;
    if let Keys::Create = command {
        if file.exists() {
            bail!("{} is there already and is kept", file.display());
        }
        KeyRing::create(file)?;
        say(&format!(
            "Wrote {}. Keep a copy of it in a safe place, apart from the database: without it no stored credential opens.",
            file.display()
        ));
        return Ok(());
    }
    let store = Store::open(&config.database).await?;
    let progress = |done: u64| say(&format!("  {done} data keys are wrapped by the new key"));
    let outcome = match command {
        Keys::Create => Ok(()),
        Keys::List => list_keys(&store, file).await,
        Keys::Rotate => rotate_key(&store, file, progress).await,
        Keys::Retire => {
            let retired = keys::retire(&store, file, progress).await?;
            if !retired.dropped.is_empty() {
                let dropped: Vec<_> = retired.dropped.iter().map(ToString::to_string).collect();
                note(&store, Action::KeysRetired, &dropped.join(", ")).await?;
            }
            match retired.dropped.as_slice() {
                [] => say("There is only one key in the file; nothing was removed."),
                dropped => {
                    let ids: Vec<_> = dropped.iter().map(ToString::to_string).collect();
                    say(&format!(
                        "Removed from {}: {}.",
                        file.display(),
                        ids.join(", ")
                    ));
                    say(
                        "Backups of the database made before the rotation open only with what was removed: keep a copy of it as long as",
                    );
                    say(
                        "you keep those backups, apart from them, and destroy it with the last of them.",
                    );
                }
            }
            Ok(())
        }
    };
    store.close().await;
    outcome
}

/// Enters into the audit log what concerns no tenant.
async fn note(store: &Store, action: Action, detail: &str) -> anyhow::Result<()> {
    let deed = Deed {
        by: &Actor::of_this_account(),
        action,
        tenant: None,
        suite: None,
        detail,
    };
    Ok(store.note(deed, Clock::system().now()).await?)
}

async fn list_keys(store: &Store, file: &Path) -> anyhow::Result<()> {
    for one in keys::list(store, file).await? {
        let place = match one.place {
            keys::Place::Current => "current",
            keys::Place::Earlier => "earlier",
            keys::Place::Missing => "MISSING in the file",
        };
        say(&format!(
            "{}  {:>6} data keys  {place}",
            one.key, one.data_keys
        ));
    }
    Ok(())
}

async fn rotate_key(store: &Store, file: &Path, progress: impl FnMut(u64)) -> anyhow::Result<()> {
    let rotated = keys::rotate(store, file, progress).await?;
    note(store, Action::KeyRotated, &rotated.key.to_string()).await?;
    say(&format!(
        "{} {} in {}; {} data keys were wrapped anew.",
        if rotated.resumed {
            "Finished an interrupted rotation to the key"
        } else {
            "Made the key"
        },
        rotated.key,
        file.display(),
        rotated.rewrapped
    ));
    say(
        "Now: copy the file to where you keep its copy, then presence-cloud keys retire removes the earlier key from it.",
    );
    if !rotated.stuck.is_empty() {
        let ids: Vec<_> = rotated.stuck.iter().map(ToString::to_string).collect();
        bail!(
            "the data keys of these tenants open with no key of the file; find the key, or connect them anew: {}",
            ids.join(", ")
        );
    }
    Ok(())
}
