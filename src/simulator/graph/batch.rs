//! `$batch`. `microsoft-graph.md` §8.

use std::collections::{HashMap, HashSet};

use http::Method;
use serde_json::{Map, Value, json};

use super::{Call, Caller, error, spoil};
use crate::simulator::answer::{Answer, Payload};
use crate::simulator::counts::Endpoint;
use crate::simulator::world::Microsoft;

/// Most requests in a batch. Microsoft Graph, "Combine multiple requests using JSON batching", 2025-02-21.
const MAX_REQUESTS: usize = 20;

impl Microsoft {
    pub(super) fn batch(&self, caller: &Caller, call: &Call) -> Answer {
        let bad = |message: &str| error(400, "BadRequest", message);
        if call.method != Method::POST {
            return error(
                405,
                "MethodNotAllowed",
                "The HTTP method is not supported for this resource.",
            );
        }
        let body: Value = serde_json::from_slice(&call.body).unwrap_or_default();
        let Some(requests) = body["requests"].as_array() else {
            return bad("Invalid batch payload format.");
        };
        if requests.is_empty() {
            return bad("Invalid batch payload format.");
        }
        if requests.len() > MAX_REQUESTS {
            return bad("Number of batch request steps exceeds the maximum value of 20.");
        }
        let mut ids = HashSet::new();
        for request in requests {
            let Some(id) = request["id"].as_str().filter(|id| !id.is_empty()) else {
                return bad("Request Id cannot be null or empty.");
            };
            if !ids.insert(id.to_lowercase()) {
                return bad("Duplicate request Id found in the batch request.");
            }
            let well_formed = request["method"].is_string()
                && request["url"].is_string()
                && (request.get("body").is_none_or(Value::is_null)
                    || header(request, "content-type").is_some());
            if !well_formed {
                return bad(
                    "A batch request needs a method and a url, and with a body the header Content-Type.",
                );
            }
            let mut needs = dependencies(request);
            if needs.any(|needed| !ids.contains(&needed) || needed == id.to_lowercase()) {
                return bad("A batch request depends on a request that does not come before it.");
            }
        }
        let mut statuses = HashMap::new();
        let mut responses = Vec::with_capacity(requests.len());
        for request in requests {
            let id = request["id"].as_str().unwrap_or_default();
            let failed = dependencies(request)
                .any(|needed| statuses.get(&needed).is_none_or(|status| *status >= 400));
            let answer = if failed {
                error(
                    424,
                    "FailedDependency",
                    "Dependent request failed to execute.",
                )
            } else {
                self.batched(caller, request)
            };
            self.inner
                .count(Endpoint::BatchItem, Some(caller.cell.id), answer.status);
            statuses.insert(id.to_lowercase(), answer.status);
            responses.push(self.response(id, answer));
        }
        if self.inner.switches().shuffled {
            self.inner.state().rng.shuffle(&mut responses);
        }
        Answer::json(200, json!({ "responses": responses }))
    }

    fn batched(&self, caller: &Caller, request: &Value) -> Answer {
        let tenant = Some(caller.cell.id);
        let faults = self
            .inner
            .state()
            .faults
            .hit(tenant, Endpoint::BatchItem, None, |_| true);
        let base = caller.root.trim_end_matches("/v1.0");
        if let Some(answer) = faults.iter().find_map(|fault| spoil(fault, base)) {
            return answer;
        }
        let url = request["url"].as_str().unwrap_or_default();
        // An unencoded # begins a fragment, as in any address.
        let url = url.split('#').next().unwrap_or_default();
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let path = path.trim_start_matches('/');
        if url.contains("://") || path.starts_with("v1.0/") || path.starts_with("beta/") {
            return error(
                400,
                "BadRequest",
                "The url of a batch request is relative, without host and version.",
            );
        }
        let method = request["method"]
            .as_str()
            .unwrap_or_default()
            .to_uppercase();
        let call = Call {
            method: Method::from_bytes(method.as_bytes()).unwrap_or(Method::TRACE),
            path: path.to_owned(),
            query: query.to_owned(),
            json: header(request, "content-type")
                .is_some_and(|v| v.to_ascii_lowercase().starts_with("application/json")),
            body: match request.get("body") {
                Some(body) => body.to_string().into_bytes(),
                None => Vec::new(),
            },
        };
        match call.endpoint() {
            Endpoint::Batch => error(400, "BadRequest", "A batch cannot be nested in a batch."),
            Endpoint::Presence if !self.inner.switches().presence_in_batch => error(
                400,
                "BadRequest",
                "This resource is not supported in a batch.",
            ),
            endpoint => self
                .too_much(caller)
                .unwrap_or_else(|| self.dispatch(caller, endpoint, &call, &faults)),
        }
    }

    /// How an answer looks inside the answer of the batch.
    fn response(&self, id: &str, answer: Answer) -> Value {
        let answer = self.finish(answer, &http::HeaderMap::new());
        let shown = [
            "retry-after",
            "x-ms-resource-unit",
            "www-authenticate",
            "location",
        ];
        let mut headers = Map::new();
        headers.insert("Cache-Control".into(), "no-cache".into());
        for (name, value) in answer.headers {
            match name {
                "retry-after" => headers.insert("Retry-After".into(), value.into()),
                "odata-version" => headers.insert("OData-Version".into(), value.into()),
                "content-type" => headers.insert("Content-Type".into(), value.into()),
                name if shown.contains(&name) || name.starts_with("x-ms-throttle") => {
                    headers.insert(name.into(), value.into())
                }
                _ => None,
            };
        }
        headers
            .entry("Content-Type")
            .or_insert_with(|| "application/json".into());
        let body = match answer.body {
            Payload::Json(body) => body,
            Payload::Text(text) => text.into(),
            Payload::Nothing => Value::Null,
        };
        json!({ "id": id, "status": answer.status, "headers": headers, "body": body })
    }
}

fn header<'a>(request: &'a Value, name: &str) -> Option<&'a str> {
    request["headers"]
        .as_object()?
        .iter()
        .find(|(n, _)| n.eq_ignore_ascii_case(name))
        .and_then(|(_, value)| value.as_str())
}

fn dependencies(request: &Value) -> impl Iterator<Item = String> + '_ {
    let listed = request["dependsOn"].as_array().into_iter().flatten();
    listed.filter_map(|id| Some(id.as_str()?.to_lowercase()))
}
