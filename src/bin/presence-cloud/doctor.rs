//! Walks every hop from the sign-in to the listeners, and tells which fails, why, and what to do.
//!
//! Invariant: it uses up nothing. A refresh token is never spent here: the running service is asked what it knows instead.

mod listeners;
mod microsoft;

use std::path::Path;

use anyhow::bail;
use presence_bridge::clock::Clock;
use presence_bridge::cloud::admin;
use presence_bridge::cloud::operations::view::{TenantDetail, count};
use presence_bridge::cloud::store::{ConnectionKind, Store, TenantRow, TenantStatus};
use presence_bridge::config::cloud::CloudConfig;
use presence_bridge::model::Timestamp;
use presence_bridge::secret::KeyRing;
use serde::Serialize;

use super::output::{chain, say, say_json, time};
use super::talk::{Ask, Service};

/// Less room than this is as good as none: the log of the database and a backup need it.
const LEAST_FREE: u64 = 100 << 20;

/// How a hop is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    Ok,
    Failed,
    NotTried,
}

/// One hop.
#[derive(Debug, Serialize)]
pub struct Hop {
    #[serde(rename = "hop")]
    name: &'static str,
    state: State,
    /// What was found, or why it failed or was not tried.
    why: String,
    /// What to do; empty when there is nothing to do.
    to_do: String,
}

impl Hop {
    pub fn ok(name: &'static str, why: impl Into<String>) -> Self {
        Self::new(name, State::Ok, why, "")
    }

    pub fn failed(name: &'static str, why: impl Into<String>, to_do: impl Into<String>) -> Self {
        Self::new(name, State::Failed, why, to_do)
    }

    pub fn not_tried(name: &'static str, why: impl Into<String>) -> Self {
        Self::new(name, State::NotTried, why, "")
    }

    fn new(
        name: &'static str,
        state: State,
        why: impl Into<String>,
        to_do: impl Into<String>,
    ) -> Self {
        Self {
            name,
            state,
            why: why.into(),
            to_do: to_do.into(),
        }
    }

    pub fn is_ok(&self) -> bool {
        self.state == State::Ok
    }
}

#[derive(Serialize)]
struct Report {
    at: Timestamp,
    /// Whether no hop failed.
    ok: bool,
    /// By which organisation Microsoft was asked.
    tenant: Option<String>,
    hops: Vec<Hop>,
}

/// What the running service knows of a tenant, if it runs and lets us ask.
async fn served(config: &CloudConfig, row: &TenantRow) -> Option<TenantDetail> {
    let ask = Ask {
        json: true,
        url: None,
        token_file: None,
        ca_file: None,
    };
    let service = Service::of_config(config, &ask).ok()?;
    service.get(&format!("/tenants/{}", row.id)).await.ok()
}

pub async fn doctor(config: &CloudConfig, wanted: Option<&str>, json: bool) -> anyhow::Result<()> {
    let (key, (stored, tenants)) = (key_file(&config.key_file), store(config).await);
    let row = match wanted {
        Some(wanted) => {
            let found = admin::pick_tenant(&tenants, |t| (t.id, t.name.as_str()), wanted);
            Some(found?)
        }
        // One by which a token can be tried, if there is one.
        None => tenants
            .iter()
            .filter(|t| t.status == TenantStatus::Active)
            .min_by_key(|t| t.connection != ConnectionKind::Organisation),
    };
    let known = match row {
        Some(row) => served(config, row).await,
        None => None,
    };
    let mut hops = microsoft::hops(config, row, known.as_ref()).await;
    hops.extend([organisation(row, known.as_ref()), stored, key]);
    hops.extend(listeners::hops(config).await);
    let ok = hops.iter().all(|hop| hop.state != State::Failed);
    let report = Report {
        at: Clock::system().now(),
        ok,
        tenant: row.map(|row| row.name.clone()),
        hops,
    };
    if json {
        say_json(&report)?;
    } else {
        print(&report);
    }
    if !ok {
        bail!("something has to be mended");
    }
    Ok(())
}

fn print(report: &Report) {
    for hop in &report.hops {
        let state = match hop.state {
            State::Ok => "ok",
            State::Failed => "FAILED",
            State::NotTried => "not tried",
        };
        say(&format!("{state:<9}  {:<18}  {}", hop.name, hop.why));
        if !hop.to_do.is_empty() {
            say(&format!("{:<31}To do: {}", "", hop.to_do));
        }
    }
    if let Some(name) = &report.tenant {
        say(&format!("\nMicrosoft was asked by {name}."));
    }
}

/// Whether it is to be read at all.
fn organisation(row: Option<&TenantRow>, known: Option<&TenantDetail>) -> Hop {
    const HOP: &str = "organisation";
    let Some(row) = row else {
        return Hop::not_tried(HOP, "none is connected, or all are paused");
    };
    let (name, id) = (&row.name, row.id);
    match row.status {
        TenantStatus::Active => Hop::ok(HOP, format!("{name} is to be read")),
        TenantStatus::Suspended => {
            let since = known.and_then(|known| known.line.health.since);
            let since = since.map_or(String::new(), |at| format!(" since {}", time(at)));
            Hop::failed(
                HOP,
                format!("{name} is paused by an operator{since}, so nobody of it is read"),
                format!(
                    "when it is to be read again: presence-cloud tenant resume {id}, or on its page"
                ),
            )
        }
        TenantStatus::Gone => Hop::failed(
            HOP,
            format!("{name} was off-boarded, so nobody of it is read"),
            "connect it anew: presence-cloud tenant add, or on the pages",
        ),
    }
}

fn key_file(file: &Path) -> Hop {
    const HOP: &str = "key file";
    match KeyRing::read(file) {
        Ok(ring) => {
            let keys = match ring.ids().len() {
                1 => "1 key".to_owned(),
                n => format!("{n} keys"),
            };
            Hop::ok(HOP, format!("{}, {keys}", file.display()))
        }
        Err(e) => Hop::failed(
            HOP,
            chain(&e),
            "put your copy of it back; it has to be readable by the service's user alone",
        ),
    }
}

/// Whether it opens, has our schema, can be written, and has room. With the tenants in it.
async fn store(config: &CloudConfig) -> (Hop, Vec<TenantRow>) {
    const HOP: &str = "store";
    let file = &config.database;
    let name = file.display();
    if !file.exists() {
        let why = format!("{name} is not there");
        let to_do = "look at database_file in the configuration, or put a backup in place: presence-cloud restore. On a new \
                     machine the service makes it.";
        return (Hop::failed(HOP, why, to_do), Vec::new());
    }
    let looked = async {
        let store = Store::open(file).await?;
        store.check().await?;
        let tenants = store.tenants().await?;
        store.close().await;
        Ok::<_, presence_bridge::cloud::store::StoreError>(tenants)
    };
    let tenants = match looked.await {
        Ok(tenants) => tenants,
        Err(e) => {
            let to_do = "look at owner, mode and disk of the file and its folder; if it is damaged: presence-cloud restore";
            return (Hop::failed(HOP, chain(&e), to_do), Vec::new());
        }
    };
    let free = free(file.parent().unwrap_or(Path::new(".")));
    let room = free.map_or(String::new(), |free| format!(", {} MiB free", free >> 20));
    let found = count(u64::try_from(tenants.len()).unwrap_or(u64::MAX), "tenant");
    let found = format!("{name}, {found}{room}");
    let hop = if free.is_some_and(|free| free < LEAST_FREE) {
        Hop::failed(HOP, found, "make room on that disk")
    } else {
        Hop::ok(HOP, found)
    };
    (hop, tenants)
}

#[cfg(unix)]
fn free(folder: &Path) -> Option<u64> {
    let folder = if folder == Path::new("") {
        Path::new(".")
    } else {
        folder
    };
    let found = rustix::fs::statvfs(folder).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(not(unix))]
fn free(_: &Path) -> Option<u64> {
    None
}
