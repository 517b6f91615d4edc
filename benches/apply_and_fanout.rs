//! The hot path without any input or output: an answer of Microsoft becomes messages in the mailboxes of those who watch.

use std::hint::black_box;

use divan::{Bencher, counter::ItemsCount};
use presence_bridge::cloud::directory::LookupPace;
use presence_bridge::cloud::hub::{LookupOutcome, Opened, TenantHub};
use presence_bridge::model::{
    ById, Epoch, Health, HealthState, Presence, SuiteId, Timestamp, Upn, UserId,
};

fn main() {
    divan::main();
}

/// A tenant of `people`, all watched by each of `suites`, and every mailbox empty.
fn hub(people: u32, suites: usize) -> (TenantHub, Vec<UserId>, Vec<Opened>) {
    let now = Timestamp::from_secs(0);
    let health = Health {
        state: HealthState::Connected,
        cause: None,
        since: now,
    };
    let mut hub = TenantHub::new(Epoch(1), LookupPace::default(), health);
    let users: Vec<UserId> = (0..people)
        .map(|n| UserId(uuid::Uuid::from_u128(n.into())))
        .collect();
    let names: Vec<String> = (0..people)
        .map(|n| format!("person.{n}@contoso.example"))
        .collect();
    let streams: Vec<Opened> = (0..suites)
        .map(|_| hub.open(SuiteId::random(), 50_000, &names, None, &|_| None, now))
        .collect();
    let found = names
        .iter()
        .zip(&users)
        .filter_map(|(name, user)| Some((Upn::parse(name).ok()?, *user)));
    hub.apply_lookup(
        LookupOutcome {
            found: found.collect(),
            ..LookupOutcome::default()
        },
        now,
    );
    answer(&mut hub, &users, "Available");
    for stream in &streams {
        while stream.mailbox.take().is_some() {}
    }
    (hub, users, streams)
}

fn answer(hub: &mut TenantHub, users: &[UserId], availability: &str) {
    let now = Timestamp::from_secs(1);
    for batch in users.chunks(650) {
        let presence = Presence::from_microsoft(Some(availability), None);
        let answer: ById<UserId, Presence> = batch.iter().map(|u| (*u, presence.clone())).collect();
        hub.apply_readings(batch, answer, now, now);
    }
    hub.finish_sweep(now, now);
}

/// A sweep in which nobody has changed: the usual case.
#[divan::bench(args = [1, 10, 100])]
fn sweep_without_changes(bencher: Bencher<'_, '_>, suites: usize) {
    let (mut hub, users, _streams) = hub(2_000, suites);
    bencher
        .counter(ItemsCount::new(users.len()))
        .bench_local(|| answer(&mut hub, black_box(&users), "Available"));
}

/// A sweep in which everybody has changed, read by nobody: the worst case, and mailboxes must not grow.
#[divan::bench(args = [1, 10, 100])]
fn sweep_in_which_everybody_changes(bencher: Bencher<'_, '_>, suites: usize) {
    let (mut hub, users, _streams) = hub(2_000, suites);
    let mut words = ["Busy", "Away"].into_iter().cycle();
    bencher
        .counter(ItemsCount::new(users.len() * suites))
        .bench_local(|| answer(&mut hub, black_box(&users), words.next().unwrap_or("Busy")));
}
