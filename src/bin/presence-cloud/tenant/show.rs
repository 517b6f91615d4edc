//! Tenants, for people.

use std::collections::HashMap;

use presence_bridge::cloud::operations::answers::Tenants;
use presence_bridge::cloud::operations::view::{Live, SuiteLine, TenantDetail, TenantLine};
use presence_bridge::cloud::operators::span;
use presence_bridge::cloud::store::AuditEntry;
use presence_bridge::model::{TenantId, Timestamp};

use crate::output::{Column, Side, ago, say, table, time};

use Side::{Left, Right};

/// How often everybody is read; with what was wanted, if that is more often.
fn cadence(live: &Live) -> String {
    let every = |ms: u64| span(std::time::Duration::from_millis(ms));
    match live.cadence_ms {
        None => "not read".into(),
        Some(ms) if ms > live.wanted_ms => {
            format!("{} (wanted {})", every(ms), every(live.wanted_ms))
        }
        Some(ms) => every(ms),
    }
}

fn covered(live: &Live, now: Timestamp) -> String {
    match live.coverage.watched {
        0 => String::new(),
        _ if !live.is_read(now) => "not read".into(),
        watched => format!("{} / {watched}", live.coverage.monitored),
    }
}

/// The state of the connection. Without a running service nobody knows it.
fn health(line: &TenantLine) -> &str {
    if line.live.is_none() && line.status == "active" {
        return "not served";
    }
    &line.health.state
}

fn suites(line: &TenantLine) -> String {
    match &line.live {
        Some(_) => format!("{} / {}", line.suites_connected, line.suites),
        None => line.suites.to_string(),
    }
}

pub fn list(found: &Tenants, filtered: bool) {
    if found.tenants.is_empty() {
        say(if filtered {
            "No organisation fits what you ask for."
        } else {
            "No organisation is connected yet. Connect one: presence-cloud tenant add, or on the pages."
        });
        return;
    }
    let rows: Vec<_> = found
        .tenants
        .iter()
        .map(|t| {
            vec![
                t.name.clone(),
                health(t).into(),
                ago(t.health.since, found.at),
                t.live
                    .as_ref()
                    .map_or(String::new(), |l| covered(l, found.at)),
                t.live.as_ref().map(cadence).unwrap_or_default(),
                suites(t),
                match t.alerts {
                    0 => String::new(),
                    n => n.to_string(),
                },
                t.connection.clone(),
                t.id.to_string(),
            ]
        })
        .collect();
    table(
        &[
            Column("ORGANISATION", Left, 0),
            Column("HEALTH", Left, 0),
            Column("SINCE", Right, 1),
            Column("COVERED", Right, 2),
            Column("READ EVERY", Right, 4),
            Column("SUITES", Right, 3),
            Column("ALERTS", Right, 5),
            Column("CONNECTION", Left, 6),
            Column("ID", Left, 7),
        ],
        &rows,
    );
    for t in found.tenants.iter().filter(|t| !t.health.cause.is_empty()) {
        say(&format!("\n{}: {}", t.name, t.health.cause));
        if !t.health.remedy.is_empty() {
            say(&format!("  To do: {}", t.health.remedy));
        }
    }
}

fn facts(pairs: &[(&str, String)]) {
    for (name, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        say(&format!("{name:<16}  {value}"));
    }
}

fn maybe(at: Option<Timestamp>) -> String {
    at.map(time).unwrap_or_default()
}

/// Endpoints of Microsoft whose breakers are not closed.
fn not_called(live: &Live) -> String {
    let b = &live.breakers;
    let all = [
        ("presence", &b.presence),
        ("lookups of names", &b.lookup),
        ("tokens", &b.token),
    ];
    let told = |(endpoint, state): &(&str, &String)| match state.as_str() {
        "closed" => None,
        "half-open" => Some(format!("{endpoint} (one call will tell)")),
        _ => Some((*endpoint).to_owned()),
    };
    let told: Vec<String> = all.iter().filter_map(told).collect();
    told.join(", ")
}

pub fn one(d: &TenantDetail) {
    let (line, health) = (&d.line, &d.line.health);
    let since = match health.since {
        Some(at) => format!(" for {}, since {}", span(at.until(d.at)), time(at)),
        None => String::new(),
    };
    facts(&[
        ("Organisation", line.name.clone()),
        ("Id", line.id.to_string()),
        ("Domain", d.domain.clone().unwrap_or_default()),
        ("Health", format!("{}{since}", self::health(line))),
        ("Cause", health.cause.clone()),
        ("To do", health.remedy.clone()),
        ("Microsoft's code", health.code.clone()),
        ("Correlation id", health.correlation_id.clone()),
        ("Connected by", line.connection.clone()),
        ("Authorized", maybe(d.authorized_at)),
        ("Refresh token", maybe(line.refresh_token_stored_at)),
        ("Suites", suites(line)),
        ("Most per suite", format!("{} people", d.max_watched)),
    ]);
    if let Some(live) = &line.live {
        facts(&[
            ("Covered", covered(live, d.at)),
            ("Read every", cadence(live)),
            ("Last read", maybe(live.last_read)),
            (
                "Budget",
                format!(
                    "{} of {} requests used per {} s",
                    live.budget_used, live.budget_allowed, live.budget_window_s
                ),
            ),
            ("Throttled since", maybe(live.throttled_since)),
            ("Next call", maybe(live.next_call_at)),
            ("Not called", not_called(live)),
            ("Token given", maybe(live.token_given_at)),
            ("Token ends", maybe(live.token_ends_at)),
        ]);
    }
    for reason in &d.reasons {
        let people = match reason.people {
            1 => "1 person".to_owned(),
            n => format!("{n} people"),
        };
        say(&format!("Not covered       {people}: {}", reason.text));
    }
    if !d.suites.is_empty() {
        say("");
        of_suites(&d.suites, d.at, false);
    }
    let open: Vec<_> = d.alerts.iter().filter(|a| a.closed_at.is_none()).collect();
    for alert in open {
        say(&format!(
            "\nAlert ({}) since {}: {}",
            alert.severity,
            time(alert.raised_at),
            alert.title
        ));
        say(&format!("  To do: {}", alert.cure));
    }
    if !d.history.is_empty() {
        say("");
        let rows: Vec<_> = d
            .history
            .iter()
            .take(10)
            .map(|h| vec![time(h.at), h.state.clone(), h.cause.clone()])
            .collect();
        table(
            &[
                Column("SINCE", Left, 0),
                Column("HEALTH", Left, 0),
                Column("CAUSE", Left, 0),
            ],
            &rows,
        );
    }
    if !d.audit.is_empty() {
        say("");
        let some: Vec<_> = d.audit.iter().take(10).cloned().collect();
        // All of it is about this one.
        of_audit(&some, None);
    }
}

/// Suites; with whose they are, if that is not clear.
pub fn of_suites(suites: &[SuiteLine], now: Timestamp, of_all: bool) {
    let count = |n: usize| match n {
        0 => String::new(),
        n => n.to_string(),
    };
    let rows: Vec<_> = suites
        .iter()
        .map(|s| {
            let state = match (s.status.as_str(), s.connected) {
                ("active", true) => "connected",
                ("active", false) => "not connected",
                (other, _) => other,
            };
            vec![
                s.name.clone(),
                if of_all {
                    s.tenant_name.clone()
                } else {
                    String::new()
                },
                state.into(),
                ago(s.last_seen_at, now),
                count(s.watched),
                count(s.over_plan),
                s.lag_ms
                    .filter(|ms| *ms > 0)
                    .map(|ms| span(std::time::Duration::from_millis(ms)))
                    .unwrap_or_default(),
                s.agent.clone().unwrap_or_default(),
                s.id.to_string(),
            ]
        })
        .collect();
    table(
        &[
            Column("SUITE", Left, 0),
            Column("ORGANISATION", Left, 0),
            Column("STATE", Left, 0),
            Column("SEEN AGO", Right, 3),
            Column("WATCHES", Right, 2),
            Column("OVER PLAN", Right, 4),
            Column("BEHIND", Right, 5),
            Column("AGENT", Left, 6),
            Column("ID", Left, 1),
        ],
        &rows,
    );
}

/// Entries of the audit log; with whom they concern by name, unless that is clear.
pub fn of_audit(entries: &[AuditEntry], names: Option<&HashMap<TenantId, String>>) {
    let whom = |id: TenantId| match names {
        Some(names) => names.get(&id).cloned().unwrap_or_else(|| id.to_string()),
        None => String::new(),
    };
    let rows: Vec<_> = entries
        .iter()
        .map(|e| {
            vec![
                e.id.to_string(),
                time(e.at),
                e.action.clone(),
                e.actor_kind.clone(),
                e.actor.clone(),
                e.tenant.map(whom).unwrap_or_default(),
                e.detail.clone(),
                e.suite.map(|s| s.to_string()).unwrap_or_default(),
            ]
        })
        .collect();
    table(
        &[
            Column("ENTRY", Right, 2),
            Column("AT", Left, 0),
            Column("ACTION", Left, 0),
            Column("BY", Left, 3),
            Column("WHO", Left, 0),
            Column("ORGANISATION", Left, 0),
            Column("DETAIL", Left, 4),
            Column("SUITE", Left, 5),
        ],
        &rows,
    );
}
