//! What a person costs who is watched and whose presence is known.

use std::collections::HashMap;

use presence_bridge::cloud::directory::LookupPace;
use presence_bridge::cloud::hub::{LookupOutcome, TenantHub};
use presence_bridge::model::{
    ById, Epoch, Health, HealthState, Presence, SuiteId, Timestamp, Upn, UserId,
};
use serde::{Deserialize, Serialize};

use crate::process::{Part, play, resident_bytes};
use crate::table::Row;

/// How many, in tenants of 20,000.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Many {
    pub people: usize,
}

const PER_TENANT: usize = 20_000;

fn name(person: usize) -> String {
    format!(
        "given.family{person}@contoso{}.example",
        person / PER_TENANT
    )
}

fn id(person: usize) -> u128 {
    // Spread as random ids are.
    (person as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
}

#[derive(Serialize, Deserialize)]
struct Grown {
    bytes: f64,
}

/// The product's hub, one suite for each tenant.
pub fn product(many: Many) -> anyhow::Result<()> {
    let before = resident_bytes(std::process::id())?;
    let now = Timestamp::from_secs(1_800_000_000);
    let mut kept = Vec::new();
    for tenant in 0..many.people.div_ceil(PER_TENANT) {
        let health = Health {
            state: HealthState::Connected,
            cause: None,
            since: now,
        };
        let people = tenant * PER_TENANT..((tenant + 1) * PER_TENANT).min(many.people);
        let mut hub = TenantHub::new(Epoch(1), LookupPace::default(), health);
        let names: Vec<String> = people.clone().map(name).collect();
        let users: Vec<UserId> = people
            .map(|person| UserId(uuid::Uuid::from_u128(id(person))))
            .collect();
        let stream = hub.open(SuiteId::random(), 50_000, &names, None, &|_| None, now);
        let found = names
            .iter()
            .zip(&users)
            .filter_map(|(name, user)| Some((Upn::parse(name).ok()?, *user)));
        let outcome = LookupOutcome {
            found: found.collect(),
            ..LookupOutcome::default()
        };
        hub.apply_lookup(outcome, now);
        for batch in users.chunks(650) {
            let presence = Presence::from_microsoft(Some("Available"), Some("Available"));
            let answer: ById<_, _> = batch.iter().map(|user| (*user, presence.clone())).collect();
            hub.apply_readings(batch, answer, now, now);
        }
        hub.finish_sweep(now, now);
        while stream.mailbox.take().is_some() {}
        kept.push((hub, stream));
    }
    let bytes = resident_bytes(std::process::id())? - before;
    play(&Grown { bytes }, |(): ()| Ok(()))?;
    drop(kept);
    Ok(())
}

/// What is known of a person, laid out by hand.
struct Packed {
    name: (u32, u16),
    availability: u8,
    activity: u8,
    sequence: u64,
    confirmed_at: u64,
    changed_at: u64,
}

/// A map by id, a map by name, and the names one after the other.
pub fn compact(many: Many) -> anyhow::Result<()> {
    let before = resident_bytes(std::process::id())?;
    let mut names = String::new();
    let (mut by_id, mut by_name) = (HashMap::new(), HashMap::new());
    for person in 0..many.people {
        let name = name(person);
        let packed = Packed {
            name: (u32::try_from(names.len())?, u16::try_from(name.len())?),
            availability: 1,
            activity: 1,
            sequence: person as u64,
            confirmed_at: 1,
            changed_at: 1,
        };
        names.push_str(&name);
        let hash = std::hash::BuildHasher::hash_one(by_id.hasher(), &name);
        by_name.insert(hash, id(person));
        by_id.insert(id(person), packed);
    }
    let bytes = resident_bytes(std::process::id())? - before;
    play(&Grown { bytes }, |(): ()| Ok(()))?;
    let used = by_id.values().map(|p: &Packed| {
        u64::from(p.name.0)
            + u64::from(p.name.1)
            + u64::from(p.availability)
            + u64::from(p.activity)
            + p.sequence
            + p.confirmed_at
            + p.changed_at
    });
    std::hint::black_box((used.fold(0, u64::wrapping_add), by_name.len(), names.len()));
    Ok(())
}

/// Resident bytes per watched person.
pub fn memory(people: usize, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let run = |role| {
        let (_part, grown): (Part, Grown) = Part::start(role, &Many { people })?;
        #[expect(clippy::cast_precision_loss, reason = "few")]
        anyhow::Ok(grown.bytes / people as f64)
    };
    let (compact, ours) = (run("compact")?, run("people")?);
    rows.push(Row::at_most(
        "resident bytes per watched person",
        "B",
        compact,
        ours,
        1.5,
    ));
    Ok(())
}
