//! Writes down what is to be known later: how the health of each tenant went, and which suites were seen.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::store::{Seen, Store, StoreError};
use super::tenants::Tenants;
use super::tokens::chain;
use crate::clock::Clock;

/// How often changes of the health are written down.
const LOOK: Duration = Duration::from_secs(1);

/// How often it is written down which suites are connected.
const NOTE_SUITES: Duration = Duration::from_secs(30);

/// How often old changes are forgotten.
const TRIM: Duration = Duration::from_hours(24);

/// Does it, until it is dropped.
pub async fn look_out(tenants: Arc<Tenants>, store: Store, clock: Clock) {
    let mut unwritten = Vec::new();
    let (mut note_suites, mut trim) = (Instant::now(), Instant::now() + TRIM);
    loop {
        tokio::time::sleep(LOOK).await;
        for tenant in tenants.all() {
            let id = tenant.id();
            let changes = tenant.take_history().into_iter();
            unwritten.extend(changes.map(|(at, health)| (id, at, health)));
        }
        match store.put_history(&unwritten).await {
            Ok(()) => unwritten.clear(),
            Err(e) => failed(&e),
        }
        let now = Instant::now();
        if now >= note_suites {
            note_suites = now + NOTE_SUITES;
            let connected = tenants.all().into_iter().flat_map(|tenant| {
                let streams = tenant.with_hub(|hub, _, _| hub.stream_figures());
                streams.into_iter().map(|stream| Seen {
                    suite: stream.suite,
                    agent: stream.agent.to_string(),
                })
            });
            let connected: Vec<Seen> = connected.collect();
            if let Err(e) = store.note_seen(&connected, clock.now()).await {
                failed(&e);
            }
        }
        if now >= trim {
            trim = now + TRIM;
            if let Err(e) = store.trim_history().await {
                failed(&e);
            }
        }
    }
}

fn failed(e: &StoreError) {
    tracing::error!(error = %chain(e), "what is to be known later was not written down");
}
