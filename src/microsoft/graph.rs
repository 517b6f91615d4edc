//! Graph: presence of many people, and ids for many names.
//!
//! Believes nothing it reads: every property may be missing, null or of another type, an entry that cannot be read is
//! left out and never fails the others. `microsoft-graph.md` §4, §7 and §8.

mod plain;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde_json::{Value, json};
use url::Url;

use super::call::{self, Answer};
use super::error::{BadAnswer, BadInput, MicrosoftError, Operation, StatusError};
use super::headers;
use super::transport::{HttpTransport, Limits, TransportError, same_origin};
use crate::model::{ById, IdSet, Presence, Upn, UserId, WorkLocation};
use crate::secret::Secret;

/// Most ids in one `getPresencesByUserId`. `microsoft-graph.md` §4.
pub const MAX_IDS: usize = 650;

/// Most values of one `in` filter. `microsoft-graph.md` §7.2.
pub const MAX_IN_VALUES: usize = 15;

/// Most requests in one `$batch`. `microsoft-graph.md` §8.
pub const MAX_BATCH: usize = 20;

/// Most names in one lookup, so that they fit into one `$batch` of `in` filters.
pub const MAX_UPNS_PER_LOOKUP: usize = MAX_BATCH * MAX_IN_VALUES;

/// Most characters of a value in a filter; longer names are asked for one by one. `microsoft-graph.md` §7.2.
pub const MAX_FILTER_CHARS: usize = 120;

/// Most pages of one list. 650 people or 15 names never need a second one; this only bounds nonsense.
pub const MAX_PAGES: usize = 4;

/// What stays as it is in a query of ours; the rest is percent-encoded.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'(')
    .remove(b')')
    .remove(b'\'')
    .remove(b',')
    .remove(b'@');

/// What stays as it is in a path segment of ours. `microsoft-graph.md` §7.1.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'@');

/// What `getPresencesByUserId` is asked.
#[derive(Serialize)]
struct Ids<'a> {
    ids: &'a [UserId],
}

/// The client of Graph. Holds no token: each call brings its own.
#[derive(Clone)]
pub struct Graph {
    transport: Arc<dyn HttpTransport>,
    root: Url,
    turn: Option<Turn>,
}

/// Waits until one more request may be made for what is being done. `security-and-faults.md` §6, budgets.
pub type Turn = Arc<dyn Fn(Operation) -> BoxFuture<'static, ()> + Send + Sync>;

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Graph").finish_non_exhaustive()
    }
}

/// What became of a list of names.
#[derive(Debug, Default)]
pub struct Lookup {
    /// Names with their ids.
    pub found: Vec<(Upn, UserId)>,
    /// Names Microsoft does not know.
    pub not_found: Vec<Upn>,
    /// Groups that could not be asked, each with its reason. A group with [`super::Recovery::Split`] is to be halved.
    pub failed: Vec<(Vec<Upn>, MicrosoftError)>,
    /// Resource units the answer says it cost; 0 when it does not say. `microsoft-graph.md` §10.
    pub units: u32,
}

/// One request of a batch: the names it asks for.
struct Group {
    upns: Vec<Upn>,
    url: String,
    single: bool,
}

impl Graph {
    /// A client for the Graph at this root, for example `https://graph.microsoft.com`.
    pub fn new(transport: Arc<dyn HttpTransport>, graph_root: Url) -> Self {
        Self {
            transport,
            root: graph_root,
            turn: None,
        }
    }

    /// The same client for whoever keeps a budget: before each further page of an answer, which is a request that nobody could
    /// know of, it waits for its turn.
    #[must_use]
    pub fn waiting_for_turns(&self, turn: Turn) -> Self {
        Self {
            turn: Some(turn),
            ..self.clone()
        }
    }

    /// Presence of at most [`MAX_IDS`] people, in one call. The caller has removed duplicates.
    ///
    /// A person missing in the answer, or whose entry cannot be read, is missing in the map: not known this time, which
    /// is not the same as offline. Nobody asked, nothing sent.
    pub async fn presences(
        &self,
        token: &Secret,
        ids: &[UserId],
    ) -> Result<ById<UserId, Presence>, MicrosoftError> {
        const OPERATION: Operation = Operation::Presences;
        if ids.is_empty() {
            return Ok(ById::default());
        }
        if ids.len() > MAX_IDS {
            return Err(MicrosoftError::input(OPERATION, BadInput::TooMany(MAX_IDS)));
        }
        let answer = self
            .post(
                OPERATION,
                token,
                &["communications", "getPresencesByUserId"],
                &Ids { ids },
            )
            .await?;
        let asked: IdSet<UserId> = ids.iter().copied().collect();
        if answer.status == StatusCode::OK
            && let Some(plain) = plain::presences(&answer.body, &asked)
        {
            return Ok(plain);
        }
        let mut presences = ById::default();
        self.each_entry(OPERATION, token, answer.json(OPERATION)?, |entry| {
            // Nobody else's: so however much comes, not more is kept than was asked for.
            presences.extend(read_presence(&entry).filter(|(id, _)| asked.contains(id)));
            Ok(())
        })
        .await?;
        Ok(presences)
    }

    /// Ids of at most [`MAX_UPNS_PER_LOOKUP`] people, in one `$batch`.
    ///
    /// Names too long for a filter are asked for one by one; only when many of them leave no room in the one batch,
    /// further batches follow. What fails inside a batch fails its own names only; an error means that nothing at all is
    /// known.
    pub async fn lookup(&self, token: &Secret, upns: &[Upn]) -> Result<Lookup, MicrosoftError> {
        const OPERATION: Operation = Operation::Lookup;
        if upns.len() > MAX_UPNS_PER_LOOKUP {
            return Err(MicrosoftError::input(
                OPERATION,
                BadInput::TooMany(MAX_UPNS_PER_LOOKUP),
            ));
        }
        let mut lookup = Lookup::default();
        let groups = groups(upns);
        let batches: Vec<&[Group]> = groups.chunks(MAX_BATCH).collect();
        for batch in &batches {
            if let Err(error) = self.batch(token, batch, &mut lookup).await {
                if batches.len() == 1 {
                    return Err(error);
                }
                let upns = batch.iter().flat_map(|g| g.upns.clone()).collect();
                lookup.failed.push((upns, error));
            }
        }
        Ok(lookup)
    }

    async fn batch(
        &self,
        token: &Secret,
        groups: &[Group],
        lookup: &mut Lookup,
    ) -> Result<(), MicrosoftError> {
        const OPERATION: Operation = Operation::Lookup;
        let requests: Vec<Value> = groups
            .iter()
            .zip(1..)
            .map(|(group, id)| json!({ "id": id.to_string(), "method": "GET", "url": group.url }))
            .collect();
        let body = json!({ "requests": requests });
        let answer = self.post(OPERATION, token, &["$batch"], &body).await?;
        let mut json = answer.json(OPERATION)?;
        let Value::Array(responses) = take(&mut json, "responses") else {
            return Err(MicrosoftError::body(
                OPERATION,
                BadAnswer::Missing("responses"),
            ));
        };
        // Answers come in any order; the id tells whose it is.
        let mut by_id: HashMap<String, Value> = responses
            .into_iter()
            .filter_map(|response| Some((text_or_number(&response["id"])?, response)))
            .collect();
        let mut units = 0_u32;
        for (group, id) in groups.iter().zip(1..) {
            let Some(response) = by_id.remove(&id.to_string()) else {
                let missing = BadAnswer::Missing("an inner answer");
                let error = MicrosoftError::body(OPERATION, missing);
                lookup.failed.push((group.upns.clone(), error));
                continue;
            };
            let inner = inner_headers(&response["headers"]);
            units = units.saturating_add(resource_units(&inner));
            match self
                .read_group(token, group, response, inner, &answer)
                .await
            {
                Ok(ids) => {
                    for upn in &group.upns {
                        match ids.get(upn) {
                            Some(id) => lookup.found.push((upn.clone(), *id)),
                            None => lookup.not_found.push(upn.clone()),
                        }
                    }
                }
                Err(error) => lookup.failed.push((group.upns.clone(), error)),
            }
        }
        if units == 0 {
            units = resource_units(&answer.headers);
        }
        lookup.units = lookup.units.saturating_add(units);
        Ok(())
    }

    async fn read_group(
        &self,
        token: &Secret,
        group: &Group,
        mut response: Value,
        inner: HeaderMap,
        outer: &Answer,
    ) -> Result<HashMap<Upn, UserId>, MicrosoftError> {
        const OPERATION: Operation = Operation::Lookup;
        let status = response["status"]
            .as_u64()
            .and_then(|s| u16::try_from(s).ok())
            .unwrap_or(0);
        let body = take(&mut response, "body");
        match status {
            200 if group.single => {
                let id = user_id(&body["id"])
                    .ok_or_else(|| MicrosoftError::body(OPERATION, BadAnswer::Missing("id")))?;
                Ok(group.upns.iter().map(|upn| (upn.clone(), id)).collect())
            }
            200 => {
                let mut ids = HashMap::new();
                self.each_entry(OPERATION, token, body, |entry| {
                    let Some(id) = user_id(&entry["id"]) else {
                        return Ok(());
                    };
                    // Without its name nobody can tell whose id this is, and taking all of them for not found would be a lie.
                    let Some(name) = entry["userPrincipalName"].as_str() else {
                        let missing = BadAnswer::Missing("userPrincipalName");
                        return Err(MicrosoftError::body(OPERATION, missing));
                    };
                    if let Some(upn) = Upn::parse(name).ok().filter(|upn| group.upns.contains(upn))
                    {
                        ids.insert(upn, id);
                    }
                    Ok(())
                })
                .await?;
                Ok(ids)
            }
            404 if group.single => Ok(HashMap::new()),
            0 => Err(MicrosoftError::body(
                OPERATION,
                BadAnswer::Missing("status"),
            )),
            status => Err(MicrosoftError::Status(Box::new(StatusError {
                operation: OPERATION,
                status,
                code: call::envelope_code(&body),
                request_id: headers::id(&inner, "request-id")
                    .or_else(|| headers::id(&outer.headers, "request-id")),
                client_request_id: Some(outer.client_request_id.clone()),
                retry_after: inner
                    .get(header::RETRY_AFTER)
                    .and_then(|v| v.to_str().ok())
                    .and_then(|v| headers::retry_after_text(v, headers::date(&outer.headers))),
                claims: headers::claims_challenge(&inner),
            }))),
        }
    }

    /// The entries of a collection and of the pages after it, as long as these lie on the Graph we know. One page is held at a time.
    async fn each_entry(
        &self,
        operation: Operation,
        token: &Secret,
        mut page: Value,
        mut each: impl FnMut(Value) -> Result<(), MicrosoftError> + Send,
    ) -> Result<(), MicrosoftError> {
        for number in 1.. {
            let Value::Array(entries) = take(&mut page, "value") else {
                return Err(MicrosoftError::body(operation, BadAnswer::Missing("value")));
            };
            entries.into_iter().try_for_each(&mut each)?;
            // What else was on the page is let go of before the next one is waited for.
            let Value::String(link) = take(&mut page, "@odata.nextLink") else {
                break;
            };
            drop(page);
            if number == MAX_PAGES {
                return Err(MicrosoftError::body(operation, BadAnswer::TooManyPages));
            }
            let link = Url::parse(&link)
                .ok()
                .filter(|link| same_origin(link, &self.root))
                .ok_or_else(|| MicrosoftError::body(operation, BadAnswer::ForeignLink))?;
            if let Some(turn) = &self.turn {
                turn(operation).await;
            }
            let request = call::get(operation, &link)?;
            page = self
                .send(operation, token, request)
                .await?
                .json(operation)?;
        }
        Ok(())
    }

    async fn post(
        &self,
        operation: Operation,
        token: &Secret,
        path: &[&str],
        body: &impl Serialize,
    ) -> Result<Answer, MicrosoftError> {
        let invalid = MicrosoftError::Transport {
            operation,
            source: TransportError::Invalid,
        };
        let mut url = self.root.clone();
        match url.path_segments_mut() {
            Ok(mut segments) => {
                segments.pop_if_empty().push("v1.0").extend(path);
            }
            Err(()) => return Err(invalid),
        }
        let Ok(body) = serde_json::to_vec(body) else {
            return Err(invalid);
        };
        let request = Request::post(url.as_str())
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/json")
            // Else members newer than the documentation arrive as `unknownFutureValue`. `microsoft-graph.md` §2.
            .header("prefer", "include-unknown-enum-members")
            .body(Bytes::from(body))
            .map_err(|_| invalid)?;
        self.send(operation, token, request).await
    }

    /// Only here a token is attached, and only to requests for the Graph given at construction.
    async fn send(
        &self,
        operation: Operation,
        token: &Secret,
        mut request: Request<Bytes>,
    ) -> Result<Answer, MicrosoftError> {
        request
            .headers_mut()
            .insert(header::AUTHORIZATION, call::bearer(operation, token)?);
        call::send(&*self.transport, operation, request, Limits::GRAPH).await
    }
}

fn groups(upns: &[Upn]) -> Vec<Group> {
    let (short, long): (Vec<Upn>, Vec<Upn>) = upns
        .iter()
        .cloned()
        .partition(|upn| upn.as_str().chars().count() <= MAX_FILTER_CHARS);
    let many = short.chunks(MAX_IN_VALUES).map(|upns| {
        let values: Vec<String> = upns
            .iter()
            .map(|upn| format!("'{}'", upn.as_str().replace('\'', "''")))
            .collect();
        let filter = format!("userPrincipalName in ({})", values.join(","));
        Group {
            url: format!(
                "/users?$filter={}&$select=id,userPrincipalName&$top={MAX_IN_VALUES}",
                utf8_percent_encode(&filter, QUERY)
            ),
            upns: upns.to_vec(),
            single: false,
        }
    });
    let single = long.into_iter().map(|upn| Group {
        url: format!("{}?$select=id,userPrincipalName", user_path(&upn)),
        upns: vec![upn],
        single: true,
    });
    many.chain(single).collect()
}

/// The path of one user; a name that begins with `$` needs the form of a key. `microsoft-graph.md` §7.1.
fn user_path(upn: &Upn) -> String {
    if upn.as_str().starts_with('$') {
        let quoted = upn.as_str().replace('\'', "''");
        return format!("/users('{}')", utf8_percent_encode(&quoted, SEGMENT));
    }
    format!("/users/{}", utf8_percent_encode(upn.as_str(), SEGMENT))
}

/// A property, taken out; null if there is none. (`value["x"]` to be changed panics where `value` is no object.)
fn take(value: &mut Value, property: &str) -> Value {
    value.get_mut(property).map(Value::take).unwrap_or_default()
}

fn user_id(value: &Value) -> Option<UserId> {
    value.as_str()?.parse().ok()
}

/// One entry; `None` if it has no id, or a state that is no text.
fn read_presence(entry: &Value) -> Option<(UserId, Presence)> {
    let id = user_id(&entry["id"])?;
    let text = |value: &Value| match value {
        Value::Null => Some(None),
        Value::String(text) => Some(Some(text.clone())),
        _ => None,
    };
    let availability = text(&entry["availability"])?;
    let activity = text(&entry["activity"])?;
    let message = &entry["statusMessage"]["message"];
    let plain = message["contentType"]
        .as_str()
        .is_none_or(|kind| kind.eq_ignore_ascii_case("text"));
    let mut presence = Presence::from_microsoft(availability.as_deref(), activity.as_deref())
        .with_status_message(message["content"].as_str().filter(|_| plain));
    presence.out_of_office = entry["outOfOfficeSettings"]["isOutOfOffice"].as_bool();
    presence.work_location = entry["workLocation"]["workLocationType"]
        .as_str()
        .and_then(WorkLocation::parse);
    Some((id, presence))
}

fn text_or_number(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn inner_headers(value: &Value) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in value.as_object().into_iter().flatten() {
        let Some(text) = text_or_number(value) else {
            continue;
        };
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_str(&text),
        ) {
            map.append(name, value);
        }
    }
    map
}

fn resource_units(headers: &HeaderMap) -> u32 {
    headers
        .get("x-ms-resource-unit")
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests;
