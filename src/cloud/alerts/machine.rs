//! From troubles to alerts: raised once, escalated when they get worse, closed when they are over. Pure.
//!
//! Invariant: the machine never gets ahead of the store. [`Machine::step`] says what is to be done; only what was stored is noted with
//! [`Machine::done`], so after a failure of the store the same is said again.

use std::collections::HashMap;

use uuid::Uuid;

use super::rules::{Judgement, Key, Severity, Trouble};
use crate::model::Timestamp;

/// What is to be done about one alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// It begins.
    Raise {
        /// Its new id.
        id: Uuid,
        /// What it is about.
        key: Key,
        /// What is told.
        trouble: Trouble,
    },
    /// It has become worse.
    Escalate {
        /// Its id.
        id: Uuid,
        /// What it is about.
        key: Key,
        /// What is told.
        trouble: Trouble,
    },
    /// The same, in other words: for who looks, not for who was told.
    Reword {
        /// Its id.
        id: Uuid,
        /// What it is about.
        key: Key,
        /// The words.
        trouble: Trouble,
    },
    /// It is over.
    Close {
        /// Its id.
        id: Uuid,
        /// What it was about.
        key: Key,
    },
}

/// An alert that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// Its id.
    pub id: Uuid,
    /// As told last; never less than told before.
    pub severity: Severity,
    /// The words as they stand: title, cause, cure.
    pub words: (String, String, String),
}

#[derive(Debug, Default)]
struct Seen {
    /// Since when it is a trouble.
    since: Option<Timestamp>,
    /// Since when it is none.
    quiet: Option<Timestamp>,
    open: Option<Open>,
}

/// Follows the troubles.
#[derive(Debug, Default)]
pub struct Machine {
    seen: HashMap<Key, Seen>,
}

fn words(of: &Trouble) -> (String, String, String) {
    (of.title.clone(), of.cause.clone(), of.cure.clone())
}

impl Machine {
    /// Goes on with the alerts that are open.
    pub fn with(open: impl IntoIterator<Item = (Key, Open)>) -> Self {
        let seen = open.into_iter().map(|(key, open)| {
            let seen = Seen {
                open: Some(open),
                ..Seen::default()
            };
            (key, seen)
        });
        Self {
            seen: seen.collect(),
        }
    }

    /// What is to be done now.
    pub fn step(
        &mut self,
        judged: &Judgement,
        now: Timestamp,
        mut new_id: impl FnMut() -> Uuid,
    ) -> Vec<Step> {
        for key in judged.troubles.keys() {
            self.seen.entry(key.clone()).or_default();
        }
        let mut steps = Vec::new();
        self.seen.retain(|key, seen| {
            if let Some(trouble) = judged.troubles.get(key) {
                seen.quiet = None;
                let since = *seen.since.get_or_insert(now);
                let (key, trouble) = (key.clone(), trouble.clone());
                match &seen.open {
                    None if since.until(now) >= key.kind.hold() => {
                        let id = new_id();
                        steps.push(Step::Raise { id, key, trouble });
                    }
                    Some(open) if trouble.severity > open.severity => {
                        let id = open.id;
                        steps.push(Step::Escalate { id, key, trouble });
                    }
                    Some(open) if words(&trouble) != open.words => {
                        let id = open.id;
                        steps.push(Step::Reword { id, key, trouble });
                    }
                    _ => {}
                }
                return true;
            }
            if judged.unknown.contains(&(key.kind, key.tenant)) || judged.held.contains(key) {
                seen.quiet = None;
                return seen.open.is_some() || seen.since.is_some();
            }
            seen.since = None;
            let quiet = *seen.quiet.get_or_insert(now);
            let Some(open) = &seen.open else {
                return false;
            };
            if quiet.until(now) >= key.kind.quiet() {
                steps.push(Step::Close {
                    id: open.id,
                    key: key.clone(),
                });
            }
            true
        });
        steps
    }

    /// It was stored.
    pub fn done(&mut self, step: &Step) {
        match step {
            Step::Raise { id, key, trouble }
            | Step::Escalate { id, key, trouble }
            | Step::Reword { id, key, trouble } => {
                let seen = self.seen.entry(key.clone()).or_default();
                let before = seen.open.as_ref().map(|open| open.severity);
                seen.open = Some(Open {
                    id: *id,
                    severity: before.map_or(trouble.severity, |s| s.max(trouble.severity)),
                    words: words(trouble),
                });
            }
            Step::Close { key, .. } => {
                self.seen.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::rules::Kind;
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_secs(secs)
    }

    fn key(kind: Kind) -> Key {
        Key {
            kind,
            tenant: None,
            subject: String::new(),
        }
    }

    fn judged(kind: Kind, severity: Severity) -> Judgement {
        let mut judged = Judgement::default();
        let trouble = Trouble {
            severity,
            title: severity.as_str().into(),
            cause: String::new(),
            cure: String::new(),
        };
        judged.troubles.insert(key(kind), trouble);
        judged
    }

    /// Steps and notes them as stored; says which they were.
    fn step(machine: &mut Machine, judged: &Judgement, now: i64) -> Vec<&'static str> {
        let steps = machine.step(judged, at(now), Uuid::new_v4);
        steps
            .iter()
            .map(|step| {
                machine.done(step);
                match step {
                    Step::Raise { .. } => "raise",
                    Step::Escalate { .. } => "escalate",
                    Step::Reword { .. } => "reword",
                    Step::Close { .. } => "close",
                }
            })
            .collect()
    }

    #[test]
    fn an_alert_is_raised_once_escalated_once_and_closed_once() {
        let mut machine = Machine::default();
        let (kind, nothing) = (Kind::ConnectionLost, Judgement::default());
        let warning = judged(kind, Severity::Warning);
        assert_eq!(step(&mut machine, &warning, 0), ["raise"]);
        assert!(step(&mut machine, &warning, 5).is_empty());
        let critical = judged(kind, Severity::Critical);
        assert_eq!(step(&mut machine, &critical, 10), ["escalate"]);
        assert!(step(&mut machine, &critical, 15).is_empty());
        // Less bad again is told to who looks, and getting worse again is no news.
        assert_eq!(step(&mut machine, &warning, 20), ["reword"]);
        assert_eq!(step(&mut machine, &critical, 25), ["reword"]);
        assert_eq!(step(&mut machine, &nothing, 30), ["close"]);
        assert!(step(&mut machine, &nothing, 35).is_empty());
        assert_eq!(step(&mut machine, &warning, 40), ["raise"]);
    }

    #[test]
    fn what_may_pass_is_told_when_it_has_lasted_and_over_when_it_has_stayed_away() {
        let mut machine = Machine::default();
        let kind = Kind::CoverageDropped;
        let (bad, good) = (judged(kind, Severity::Warning), Judgement::default());
        let (hold, quiet) = (kind.hold().as_secs(), kind.quiet().as_secs());
        let (hold, quiet) = (hold.cast_signed(), quiet.cast_signed());
        assert!(step(&mut machine, &bad, 0).is_empty());
        assert!(step(&mut machine, &good, 1).is_empty());
        assert!(step(&mut machine, &bad, 2).is_empty());
        assert!(step(&mut machine, &bad, hold + 1).is_empty());
        assert_eq!(step(&mut machine, &bad, hold + 2), ["raise"]);
        assert!(step(&mut machine, &good, hold + 3).is_empty());
        assert!(step(&mut machine, &bad, hold + 4).is_empty());
        assert!(step(&mut machine, &good, hold + 5).is_empty());
        assert_eq!(step(&mut machine, &good, hold + 5 + quiet), ["close"]);
    }

    #[test]
    fn what_is_not_known_is_not_over() {
        let mut machine = Machine::default();
        let bad = judged(Kind::NoReading, Severity::Warning);
        assert_eq!(step(&mut machine, &bad, 0), ["raise"]);
        let mut unknown = Judgement::default();
        unknown.unknown.insert((Kind::NoReading, None));
        assert!(step(&mut machine, &unknown, 100_000).is_empty());
        let nothing = Judgement::default();
        assert!(step(&mut machine, &nothing, 200_000).is_empty());
        let quiet = Kind::NoReading.quiet().as_secs().cast_signed();
        assert_eq!(step(&mut machine, &nothing, 200_000 + quiet), ["close"]);
    }

    #[test]
    fn what_was_not_stored_is_said_again() {
        let mut machine = Machine::default();
        let bad = judged(Kind::NoReading, Severity::Warning);
        assert_eq!(machine.step(&bad, at(0), Uuid::new_v4).len(), 1);
        assert_eq!(machine.step(&bad, at(5), Uuid::new_v4).len(), 1);
    }

    #[test]
    fn alerts_that_were_open_go_on_after_a_restart() {
        let bad = judged(Kind::ConnectionLost, Severity::Critical);
        let trouble = &bad.troubles[&key(Kind::ConnectionLost)];
        let open = Open {
            id: Uuid::new_v4(),
            severity: Severity::Critical,
            words: words(trouble),
        };
        let open = [(key(Kind::ConnectionLost), open)];
        let mut machine = Machine::with(open.clone());
        assert!(step(&mut machine, &bad, 0).is_empty());
        let mut machine = Machine::with(open);
        assert_eq!(step(&mut machine, &Judgement::default(), 0), ["close"]);
        assert!(Kind::ConnectionLost.quiet() == Duration::ZERO);
    }
}
