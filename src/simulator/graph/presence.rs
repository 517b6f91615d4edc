//! Presence, in bulk and of one person. `microsoft-graph.md` §4 to §6.

use std::collections::HashSet;

use http::Method;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Call, Caller, error, not_found};
use crate::simulator::answer::Answer;
use crate::simulator::directory::Shown;
use crate::simulator::faults::Fault;
use crate::simulator::options::{Casing, Duplicates, EmptyIds, Switches, UnknownPerson};
use crate::simulator::throttle::{Decision, Service};
use crate::simulator::world::Microsoft;

/// Most ids per request. Microsoft Graph, getPresencesByUserId, page of 2025-07-23.
const MAX_IDS: usize = 650;

impl Microsoft {
    pub(super) fn presence(&self, caller: &Caller, call: &Call, faults: &[Fault]) -> Answer {
        let service = Service::Presence(caller.client, caller.cell.id);
        let switches = self.inner.switches();
        if let Decision::Wait(wait, _) =
            self.throttle(service, 1, self.inner.options.limits.presence)
        {
            return self.throttled(wait, switches.presence_retry_after);
        }
        let segments: Vec<&str> = call.path.split('/').collect();
        match (&call.method, segments.as_slice()) {
            (&Method::POST, ["communications", bulk])
                if bulk.eq_ignore_ascii_case("getPresencesByUserId") =>
            {
                self.bulk(caller, call, faults)
            }
            (&Method::GET, ["communications", "presences", id]) => {
                self.single(caller, id, switches.wrapped_presence, faults)
            }
            (&Method::GET, ["users", id, "presence"]) => self.single(caller, id, false, faults),
            (&Method::GET, ["me", "presence"]) => match caller.person() {
                Some(id) => self.single(caller, &id.to_string(), false, faults),
                None => error(
                    400,
                    "BadRequest",
                    "/me request is only valid with delegated authentication flow.",
                ),
            },
            (_, ["communications", ..] | ["users" | "me", .., "presence"]) => error(
                405,
                "MethodNotAllowed",
                "The HTTP method is not supported for this resource.",
            ),
            _ => not_found(&call.path),
        }
    }

    fn bulk(&self, caller: &Caller, call: &Call, faults: &[Fault]) -> Answer {
        if !caller.may(&["Presence.Read.All", "Presence.ReadWrite.All"]) {
            return forbidden();
        }
        let switches = self.inner.switches();
        if switches.content_type_needed && !call.json {
            return error(
                400,
                "BadRequest",
                "A Content-Type of application/json is required.",
            );
        }
        let body: Value = serde_json::from_slice(&call.body).unwrap_or_default();
        let ids: Option<Vec<&str>> = body["ids"]
            .as_array()
            .and_then(|ids| ids.iter().map(Value::as_str).collect());
        let Some(ids) = ids else {
            return error(400, "BadRequest", "Unable to read JSON request payload.");
        };
        let mut state = self.inner.state();
        state.counts.largest_ids = state.counts.largest_ids.max(ids.len());
        drop(state);
        if ids.len() > MAX_IDS || (ids.is_empty() && switches.empty_ids == EmptyIds::BadRequest) {
            return error(400, "BadRequest", "");
        }
        let Some(mut value) = self.entries(caller, &ids, faults) else {
            return error(400, "BadRequest", "");
        };
        if switches.shuffled {
            self.inner.state().rng.shuffle(&mut value);
        }
        let mut answer = json!({ "value": value });
        if switches.presence_context {
            answer["@odata.context"] = format!(
                "{}/$metadata#Collection(microsoft.graph.presence)",
                caller.root
            )
            .into();
        }
        Answer::json(200, answer)
    }

    /// What is said about these ids; `None` refuses the whole request.
    fn entries(&self, caller: &Caller, ids: &[&str], faults: &[Fault]) -> Option<Vec<Value>> {
        let switches = self.inner.switches();
        let now = self.inner.people_time();
        let life = self.inner.options.life;
        let directory = caller.cell.directory();
        let mut seen = HashSet::new();
        let mut value = Vec::with_capacity(ids.len());
        for id in ids {
            let parsed = Uuid::try_parse(id).ok();
            let once = switches.duplicates == Duplicates::Once;
            if once && !seen.insert(id.to_ascii_lowercase()) {
                continue;
            }
            let missing =
                |fault: &Fault| matches!(fault, Fault::MissingUser { id } if Some(*id) == parsed);
            if faults.iter().any(missing) {
                continue;
            }
            let shown = parsed.and_then(|id| directory.shown(id, life, now));
            let unknown = match (&shown, parsed) {
                (Some(shown), _) if shown.guest => switches.guest,
                (Some(shown), _) => {
                    value.push(render(shown, &switches, faults));
                    continue;
                }
                (None, Some(_)) => switches.unknown_person,
                (None, None) => switches.not_a_guid,
            };
            match unknown {
                UnknownPerson::Omitted => {}
                UnknownPerson::BadRequest => return None,
                UnknownPerson::PresenceUnknown => value.push(nobody(id, &switches)),
            }
        }
        Some(value)
    }

    fn single(&self, caller: &Caller, id: &str, wrapped: bool, faults: &[Fault]) -> Answer {
        let own = caller.person().is_some_and(|own| own.to_string() == id);
        let all = ["Presence.Read.All", "Presence.ReadWrite.All"];
        let allowed = caller.may(&all) || (own && caller.may(&["Presence.Read"]));
        if !allowed {
            return forbidden();
        }
        let id = percent_decode_str(id).decode_utf8_lossy();
        if Uuid::try_parse(&id).is_err() {
            return error(400, "BadRequest", "The id of a user must be a GUID.");
        }
        let Some(found) = self.entries(caller, &[&id], faults) else {
            return error(400, "BadRequest", "");
        };
        let Some(mut entry) = found.into_iter().next() else {
            return error(404, "NotFound", "Presence not found.");
        };
        if wrapped {
            return Answer::json(200, json!({ "value": [entry] }));
        }
        entry["@odata.context"] =
            format!("{}/$metadata#users('{id}')/presence/$entity", caller.root).into();
        Answer::json(200, entry)
    }
}

fn forbidden() -> Answer {
    error(403, "Forbidden", "")
}

fn nobody(id: &str, switches: &Switches) -> Value {
    let unknown = spelled("PresenceUnknown", switches.casing == Casing::Camel);
    json!({
        "id": id, "availability": unknown, "activity": unknown,
        "outOfOfficeSettings": { "message": null, "isOutOfOffice": false },
    })
}

fn spelled(word: &str, camel: bool) -> String {
    let mut chars = word.chars();
    match chars.next() {
        Some(first) if camel => first.to_lowercase().chain(chars).collect(),
        _ => word.to_owned(),
    }
}

/// One presence as Microsoft writes it. `microsoft-graph.md` §6.
fn render(shown: &Shown, switches: &Switches, faults: &[Fault]) -> Value {
    let camel = switches.casing == Casing::Camel || faults.contains(&Fault::CamelCase);
    let (availability, activity) = if faults.contains(&Fault::UnknownAvailability) {
        ("Teleporting", "InAHologram")
    } else {
        (shown.availability.as_str(), shown.activity.as_str())
    };
    let mut entry = json!({
        "id": shown.id,
        "availability": spelled(availability, camel),
        "activity": spelled(activity, camel),
        "outOfOfficeSettings": { "message": shown.out_of_office_message, "isOutOfOffice": shown.out_of_office },
    });
    if switches.sequence_number {
        entry["sequenceNumber"] = format!("A{:015}", shown.sequence.as_millis()).into();
    }
    if switches.newer_fields {
        // Neither expiry nor publication time is shown of other people. `microsoft-graph.md` §6.
        entry["statusMessage"] = match &shown.status_message {
            Some(text) => json!({
                "message": { "content": text, "contentType": "text" },
                "expiryDateTime": null, "publishedDateTime": null,
            }),
            None => Value::Null,
        };
        let unset = shown.work_location == "unspecified";
        entry["workLocation"] = json!({
            "workLocationType": shown.work_location,
            "source": if unset { "none" } else { "manual" },
            "placeId": null,
        });
    }
    if faults.contains(&Fault::NullFields)
        && let Some(fields) = entry.as_object_mut()
    {
        for (name, value) in fields {
            if name != "id" {
                *value = Value::Null;
            }
        }
    }
    if faults.contains(&Fault::ExtraFields) {
        entry["mood"] = "sunny".into();
        entry["holographicPresence"] = json!({ "beam": [1, 2, 3], "nested": { "deep": null } });
        entry["@odata.type"] = "#microsoft.graph.presence".into();
    }
    entry
}
