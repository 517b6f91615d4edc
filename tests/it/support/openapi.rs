//! Microsoft's own description of Graph as a judge over requests and answers.
//!
//! Unknown paths, methods, query parameters and statuses are violations, so that neither our client nor the simulator can
//! invent anything. `$batch` is not described by Microsoft: it is unpacked here, and each request and answer inside is judged
//! by itself (`microsoft-graph.md` §8).
//!
//! Deviations, on purpose: `innerError.date` may be any text, since no recorded answer of Microsoft carries the
//! zone its description demands (`microsoft-graph.md` §9); and where the description says "this type, or any object, or
//! null", which admits everything, only the type and null are admitted.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use jsonschema::{Draft, Validator};
use percent_encoding::percent_decode_str;
use presence_bridge::microsoft::{HttpTransport, Limits, TransportError};
use serde_json::{Map, Value, json};

const DESCRIPTION: &str = include_str!("../../fixtures/graph-openapi-subset.yaml");
const MAX_BATCH: usize = 20;

/// The description, ready to judge.
pub struct Contract {
    operations: Vec<Operation>,
}

struct Operation {
    method: String,
    template: Vec<String>,
    parameters: HashMap<String, Parameter>,
    body: Option<Validator>,
    responses: HashMap<String, Option<Validator>>,
}

struct Parameter {
    schema: Value,
    check: Validator,
}

type Verdict = Result<(), String>;

impl Contract {
    pub fn load() -> Self {
        let mut root: Value = serde_norway::from_str(DESCRIPTION).unwrap();
        let date = "/components/schemas/microsoft.graph.ODataErrors.InnerError/properties/date";
        let date = root.pointer_mut(date).unwrap().as_object_mut().unwrap();
        assert!(date.remove("pattern").is_some() && date.remove("format").is_some());
        let root = to_json_schema(root);
        let mut operations = Vec::new();
        for (path, item) in root["paths"].as_object().unwrap() {
            for method in ["get", "post", "patch", "put", "delete"] {
                if let Some(described) = item.get(method) {
                    operations.push(Operation::read(&root, path, method, item, described));
                }
            }
        }
        Self { operations }
    }

    /// Judges a request; the path may begin with the version.
    pub fn check_request(&self, method: &str, path_and_query: &str, body: &[u8]) -> Verdict {
        let (path, query) = split(path_and_query);
        if path == "/$batch" {
            return self.check_batch_request(method, query, body);
        }
        let operation = self.operation(method, path)?;
        operation.check_query(query)?;
        match (&operation.body, body) {
            (None, []) => Ok(()),
            (None, _) => Err(format!("{method} {path}: no body expected")),
            (Some(check), body) => conforms(check, &parse(body)?),
        }
        .map_err(|e| format!("request {method} {path}: {e}"))
    }

    /// Judges an answer.
    pub fn check_response(&self, method: &str, path: &str, status: u16, body: &[u8]) -> Verdict {
        let (path, _) = split(path);
        let say = |e: String| format!("answer {status} to {method} {path}: {e}");
        if path == "/$batch" {
            if status == 200 {
                return parse(body)
                    .and_then(|b| batch_answers(&b).map(|_| ()))
                    .map_err(say);
            }
            // Refused as a whole it speaks like everything else of Graph.
            return self.check_response("GET", "/users", status, body);
        }
        let operation = self.operation(method, path)?;
        let exact = operation.responses.get(&status.to_string());
        let described = exact.or_else(|| operation.responses.get(&format!("{}XX", status / 100)));
        match described {
            None => Err(format!(
                "answer {status} to {method} {path} is not described"
            )),
            Some(None) if body.is_empty() => Ok(()),
            Some(None) => Err(say("no body expected".to_owned())),
            Some(Some(check)) => parse(body).and_then(|b| conforms(check, &b)).map_err(say),
        }
    }

    /// Judges a whole exchange, answers inside a batch by the requests they belong to.
    pub fn check_exchange(
        &self,
        method: &str,
        path: &str,
        request: &[u8],
        status: u16,
        answer: &[u8],
    ) -> Verdict {
        self.check_request(method, path, request)?;
        self.check_response(method, path, status, answer)?;
        if split(path).0 != "/$batch" || status != 200 {
            return Ok(());
        }
        let requests = parse(request)?;
        let mut asked: HashMap<String, (&str, &str)> = HashMap::new();
        for inner in requests["requests"].as_array().into_iter().flatten() {
            let text = |name: &str| inner[name].as_str().unwrap_or_default();
            asked.insert(text("id").to_lowercase(), (text("method"), text("url")));
        }
        for (id, status, body) in batch_answers(&parse(answer)?)? {
            let (method, url) = asked
                .remove(&id)
                .ok_or_else(|| format!("answer {id} of the batch: nobody asked, or twice"))?;
            let body = if body.is_null() {
                Vec::new()
            } else {
                body.to_string().into_bytes()
            };
            self.check_response(method, url, status, &body)
                .map_err(|e| format!("answer {id} of the batch: {e}"))?;
        }
        match asked.keys().next() {
            None => Ok(()),
            Some(id) => Err(format!("request {id} of the batch has no answer")),
        }
    }

    fn check_batch_request(&self, method: &str, query: Option<&str>, body: &[u8]) -> Verdict {
        if method != "POST" || query.is_some() {
            return Err("a batch is a POST without a query".to_owned());
        }
        let body = parse(body)?;
        let requests = body["requests"].as_array().ok_or("a batch has requests")?;
        if requests.is_empty() || requests.len() > MAX_BATCH {
            return Err(format!("{} requests in a batch", requests.len()));
        }
        let mut ids = HashSet::new();
        for inner in requests {
            let id = inner["id"].as_str().ok_or("an inner request has an id")?;
            if !ids.insert(id.to_lowercase()) {
                return Err(format!("id {id} twice in a batch"));
            }
            let method = inner["method"]
                .as_str()
                .ok_or("an inner request has a method")?;
            let url = inner["url"].as_str().ok_or("an inner request has a url")?;
            if !url.starts_with('/') || url.starts_with("/v1.0") || url.starts_with("/$batch") {
                return Err(format!("{url} inside a batch"));
            }
            let bytes = match &inner["body"] {
                Value::Null => Vec::new(),
                body => body.to_string().into_bytes(),
            };
            let typed = inner["headers"]
                .as_object()
                .is_some_and(|h| h.keys().any(|k| k.eq_ignore_ascii_case("content-type")));
            if !bytes.is_empty() && !typed {
                return Err(format!("inner request {id} has a body without its type"));
            }
            self.check_request(method, url, &bytes)
                .map_err(|e| format!("inner request {id}: {e}"))?;
        }
        Ok(())
    }

    fn operation(&self, method: &str, path: &str) -> Result<&Operation, String> {
        let segments = segments(path);
        // A written-out segment goes before a parameter.
        self.operations
            .iter()
            .filter(|o| o.method == method && o.fits(&segments))
            .min_by_key(|o| o.template.iter().filter(|s| s.starts_with('{')).count())
            .ok_or_else(|| format!("{method} {path} is not described"))
    }
}

impl Operation {
    fn read(root: &Value, path: &str, method: &str, item: &Value, described: &Value) -> Self {
        let list = |v: &Value| v["parameters"].as_array().cloned().unwrap_or_default();
        let parameters = list(item)
            .into_iter()
            .chain(list(described))
            .map(|parameter| resolve(root, &parameter).clone())
            .filter(|parameter| parameter["in"] == "query")
            .map(|parameter| {
                let schema = parameter["schema"].clone();
                let check = validator(root, &schema);
                let name = parameter["name"].as_str().unwrap().to_owned();
                (name, Parameter { schema, check })
            })
            .collect();
        let content = |v: &Value| {
            v.pointer("/content/application~1json/schema")
                .map(|schema| validator(root, schema))
        };
        let responses = described["responses"].as_object().unwrap();
        Self {
            method: method.to_uppercase(),
            template: segments(path),
            parameters,
            body: content(&described["requestBody"]),
            responses: responses
                .iter()
                .map(|(status, response)| (status.clone(), content(resolve(root, response))))
                .collect(),
        }
    }

    fn fits(&self, path: &[String]) -> bool {
        let fits = |(template, segment): (&String, &String)| {
            (template.starts_with('{') && !segment.is_empty()) || template == segment
        };
        self.template.len() == path.len() && self.template.iter().zip(path).all(fits)
    }

    fn check_query(&self, query: Option<&str>) -> Verdict {
        let mut seen = HashSet::new();
        for pair in query.into_iter().flat_map(|q| q.split('&')) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name), decode(value));
            if !seen.insert(name.clone()) {
                return Err(format!("query parameter {name} twice"));
            }
            let parameter = self
                .parameters
                .get(&name)
                .ok_or_else(|| format!("query parameter {name} is not described"))?;
            let value = match parameter.schema["type"].as_str() {
                Some("array") => json!(value.split(',').collect::<Vec<_>>()),
                Some("integer" | "boolean") => {
                    serde_json::from_str(&value).unwrap_or(Value::String(value))
                }
                _ => Value::String(value),
            };
            conforms(&parameter.check, &value)
                .map_err(|e| format!("query parameter {name}: {e}"))?;
        }
        Ok(())
    }
}

/// Path without the version, and query.
fn split(path_and_query: &str) -> (&str, Option<&str>) {
    let (path, query) = match path_and_query.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (path_and_query, None),
    };
    (path.strip_prefix("/v1.0").unwrap_or(path), query)
}

/// The segments of a path; the key form `users('x')` counts as `users/x`.
fn segments(path: &str) -> Vec<String> {
    let mut out = Vec::new();
    for segment in path.split('/').skip(1) {
        match segment
            .split_once("('")
            .map(|(n, k)| (n, k.strip_suffix("')")))
        {
            Some((name, Some(key))) => out.extend([name.to_owned(), decode(key)]),
            _ => out.push(if segment.starts_with('{') {
                segment.to_owned()
            } else {
                decode(segment)
            }),
        }
    }
    out
}

fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

fn parse(body: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(body).map_err(|e| format!("no JSON: {e}"))
}

fn conforms(check: &Validator, value: &Value) -> Verdict {
    check
        .validate(value)
        .map_err(|e| format!("{}: {e}", e.instance_path()))
}

/// Id, status and body of each answer inside a batch.
fn batch_answers(body: &Value) -> Result<Vec<(String, u16, Value)>, String> {
    let answers = body["responses"]
        .as_array()
        .ok_or("a batch answers with responses")?;
    answers
        .iter()
        .map(|answer| {
            let id = answer["id"].as_str().ok_or("an inner answer has an id")?;
            let status = answer["status"]
                .as_u64()
                .and_then(|s| u16::try_from(s).ok())
                .ok_or("an inner answer has a status")?;
            Ok((id.to_lowercase(), status, answer["body"].clone()))
        })
        .collect()
}

fn resolve<'a>(root: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(reference) => root.pointer(reference.trim_start_matches('#')).unwrap(),
        None => value,
    }
}

fn validator(root: &Value, schema: &Value) -> Validator {
    let document = json!({ "components": root["components"], "allOf": [schema] });
    jsonschema::options()
        .with_draft(Draft::Draft7)
        .build(&document)
        .unwrap()
}

/// OpenAPI 3.0's `nullable` in the words of JSON Schema.
fn to_json_schema(value: Value) -> Value {
    match value {
        Value::Array(list) => list.into_iter().map(to_json_schema).collect(),
        Value::Object(map) => {
            if map.len() == 2
                && map.get("type") == Some(&json!("object"))
                && map.contains_key("nullable")
            {
                return json!({ "type": "null" });
            }
            let nullable = map.get("nullable") == Some(&json!(true));
            let mut out: Map<String, Value> = map
                .into_iter()
                .map(|(k, v)| (k, to_json_schema(v)))
                .collect();
            if nullable && let Some(kind) = out.remove("type") {
                out.insert("type".to_owned(), json!([kind, "null"]));
                if let Some(Value::Array(values)) = out.get_mut("enum") {
                    values.push(Value::Null);
                }
            }
            Value::Object(out)
        }
        other => other,
    }
}

/// Judges everything that passes through a transport towards Graph; what goes elsewhere passes unseen.
pub struct Checked<T> {
    inner: T,
    contract: Contract,
    seen: Arc<Mutex<Seen>>,
}

/// What passed.
#[derive(Debug, Default)]
pub struct Seen {
    /// What is wrong with it.
    pub violations: Vec<String>,
    /// How many exchanges by method, path and status.
    pub exchanges: BTreeMap<(String, String, u16), usize>,
}

impl<T> Checked<T> {
    pub fn new(inner: T) -> (Arc<Self>, Arc<Mutex<Seen>>) {
        let seen = Arc::default();
        let checked = Self {
            inner,
            contract: Contract::load(),
            seen: Arc::clone(&seen),
        };
        (Arc::new(checked), seen)
    }
}

#[async_trait]
impl<T: HttpTransport> HttpTransport for Checked<T> {
    async fn send(
        &self,
        request: http::Request<Bytes>,
        limits: Limits,
    ) -> Result<http::Response<Bytes>, TransportError> {
        let method = request.method().to_string();
        let path = request.uri().path_and_query().unwrap().to_string();
        let body = request.body().clone();
        let typed = request.headers().contains_key("content-type");
        let response = self.inner.send(request, limits).await?;
        if !path.starts_with("/v1.0/") {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let mut verdict =
            self.contract
                .check_exchange(&method, &path, &body, status, response.body());
        if !body.is_empty() && !typed {
            verdict = Err(format!("{method} {path}: a body without its type"));
        }
        let mut seen = self.seen.lock().unwrap();
        seen.violations.extend(verdict.err());
        let key = (method, split(&path).0.to_owned(), status);
        *seen.exchanges.entry(key).or_default() += 1;
        Ok(response)
    }
}
