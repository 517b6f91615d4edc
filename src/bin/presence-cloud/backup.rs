//! Backups, and what is made of them.

use std::path::Path;

use presence_bridge::clock::Clock;
use presence_bridge::cloud::backup;
use presence_bridge::cloud::store::Actor;
use presence_bridge::config::cloud::CloudConfig;

use super::output::say;

pub async fn backup(config: &CloudConfig, target: &Path) -> anyhow::Result<()> {
    let (clock, by) = (Clock::system(), Actor::of_this_account());
    let (database, key_file) = (&config.database, &config.key_file);
    let made = backup::backup(database, key_file, &clock, &by, target).await?;
    say(&made.to_string());
    Ok(())
}

pub async fn restore(config: &CloudConfig, file: &Path) -> anyhow::Result<()> {
    let mut listeners = vec![config.grpc.listen, config.operators.listener.listen];
    listeners.extend(config.web.as_ref().map(|web| web.listener.listen));
    let (clock, by) = (Clock::system(), Actor::of_this_account());
    let (database, key_file) = (&config.database, &config.key_file);
    let restored = backup::restore(file, database, key_file, &listeners, &clock, &by).await?;
    say(&restored.to_string());
    Ok(())
}
