//! Events as JSON lines, for programs. One object per line; field names are stable, fields are only ever added.
//!
//! | `event` | fields |
//! |---|---|
//! | `connected` | `resumed` |
//! | `disconnected` | `why`, `remedy`, `retry_in_ms` (absent: no further try) |
//! | `presence` | `upn`, `availability`, `activity`, `out_of_office`, `status_message`, `work_location`, `sequence`, `changed_at`, `confirmed_at`, `snapshot`, `fresh`, `age_ms` (absent: not told yet) |
//! | `freshness` | `fresh`, `upns`: whose values are fresh from now on, or stale. After `disconnected` everything is stale without this |
//! | `gone` | `upn` |
//! | `coverage` | `upn`, `state`, `detail` |
//! | `snapshot_complete` | |
//! | `tenant_status` | `state`, `cause`, `remedy`, `code`, `since`, `cadence_ms` |
//! | `heartbeat` | `confirmed_as_of`, `age_ms`, `exceptions`, `watched`, `fresh`, `stale` |
//!
//! Every line has `at`, the time on this machine. Times are RFC 3339 in UTC.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::view::{Event, View};
use crate::model::{CoverageState, Timestamp};

/// The word for a coverage state.
pub const fn coverage_word(state: Option<CoverageState>) -> &'static str {
    match state {
        None => "unknown",
        Some(CoverageState::Monitored) => "monitored",
        Some(CoverageState::Resolving) => "resolving",
        Some(CoverageState::NotFound) => "not found",
        Some(CoverageState::Duplicate) => "duplicate",
        Some(CoverageState::Guest) => "guest",
        Some(CoverageState::PresenceUnknown) => "presence unknown",
        Some(CoverageState::OverPlan) => "over plan",
        Some(CoverageState::NoPermission) => "no permission",
        Some(CoverageState::Invalid) => "invalid",
        Some(CoverageState::Quarantined) => "quarantined",
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// An event as a JSON object, without what is not known.
pub fn event(event: &Event, view: &View, now: Timestamp) -> Map<String, Value> {
    let time = |at: Timestamp| at.to_string();
    let object = match event {
        Event::Connected { resumed } => json!({"event": "connected", "resumed": resumed}),
        Event::Disconnected {
            why,
            remedy,
            retry_in,
        } => json!({
            "event": "disconnected", "why": why, "remedy": remedy, "retry_in_ms": retry_in.map(millis),
        }),
        Event::Presence {
            upn,
            value,
            snapshot,
            fresh,
        } => {
            let person = view.person(upn);
            let p = &value.presence;
            json!({
                "event": "presence", "upn": upn,
                "availability": p.availability.as_str(), "activity": p.activity.as_str(),
                "out_of_office": p.out_of_office, "status_message": p.status_message.as_deref(),
                "work_location": p.work_location.as_ref().map(crate::model::WorkLocation::as_str),
                "sequence": value.sequence.0,
                "changed_at": time(value.changed_at), "confirmed_at": time(value.confirmed_at),
                "snapshot": snapshot,
                "fresh": fresh,
                "age_ms": person.and_then(|person| view.age(person, now)).map(millis),
            })
        }
        Event::Freshness { upns, fresh } => {
            json!({"event": "freshness", "fresh": fresh, "upns": upns})
        }
        Event::Gone { upn } => json!({"event": "gone", "upn": upn}),
        Event::Coverage { upn, coverage } => json!({
            "event": "coverage", "upn": upn, "state": coverage_word(coverage.state), "detail": coverage.detail,
        }),
        Event::SnapshotComplete => json!({"event": "snapshot_complete"}),
        Event::TenantStatus(status) => json!({
            "event": "tenant_status", "state": status.state, "cause": status.cause, "remedy": status.remedy,
            "code": status.code, "since": status.since.map(time), "cadence_ms": status.cadence.map(millis),
        }),
        Event::Heartbeat {
            confirmed_as_of,
            exceptions,
            age,
        } => {
            let counts = view.counts(now);
            json!({
                "event": "heartbeat", "confirmed_as_of": confirmed_as_of.map(time), "age_ms": age.map(millis),
                "exceptions": exceptions, "watched": counts.watched, "fresh": counts.fresh, "stale": counts.stale,
            })
        }
    };
    let mut object = match object {
        Value::Object(object) => object,
        _ => Map::new(),
    };
    object.retain(|_, value| !value.is_null() && value.as_str() != Some(""));
    object.insert("at".into(), json!(time(now)));
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_left_out() {
        let event = super::event(
            &Event::Disconnected {
                why: "x".into(),
                remedy: String::new(),
                retry_in: None,
            },
            &View::default(),
            Timestamp::from_secs(0),
        );
        assert_eq!(
            Value::Object(event),
            json!({"event": "disconnected", "why": "x", "at": "1970-01-01T00:00:00Z"})
        );
    }
}
