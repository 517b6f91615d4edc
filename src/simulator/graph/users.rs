//! Users: one by id or UPN, a filtered list, a paged listing. `microsoft-graph.md` §7.

use std::collections::HashMap;

use http::Method;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use url::form_urlencoded;
use uuid::Uuid;

use super::filter::{self, Filter, Property};
use super::{Call, Caller, denied, error, not_found};
use crate::simulator::answer::Answer;
use crate::simulator::directory::{Directory, Entry};
use crate::simulator::throttle::{Decision, Service};
use crate::simulator::world::Microsoft;

/// People per page unless `$top` says otherwise.
const PAGE: usize = 100;

/// What a user has without `$select`. `microsoft-graph.md` §7.1.
const DEFAULT: [&str; 11] = [
    "businessPhones",
    "displayName",
    "givenName",
    "id",
    "jobTitle",
    "mail",
    "mobilePhone",
    "officeLocation",
    "preferredLanguage",
    "surname",
    "userPrincipalName",
];

/// Permissions that let read users.
const READ: [&str; 3] = ["User.ReadBasic.All", "User.Read.All", "Directory.Read.All"];

/// Properties that need more than `User.ReadBasic.All`.
const NOT_BASIC: [&str; 4] = [
    "accountEnabled",
    "userType",
    "department",
    "createdDateTime",
];

impl Microsoft {
    pub(super) fn users(&self, caller: &Caller, call: &Call) -> Answer {
        let query: HashMap<String, String> = form_urlencoded::parse(call.query.as_bytes())
            .into_owned()
            .collect();
        let top = query.get("$top").map(|t| t.parse::<usize>());
        // Base cost, then what the options add and take away. `microsoft-graph.md` §10.
        let listing = call.path.eq_ignore_ascii_case("users");
        let mut cost: u32 = if listing { 2 } else { 1 };
        cost -= u32::from(query.contains_key("$select") && cost > 1);
        cost -= u32::from(matches!(top, Some(Ok(top)) if top < 20) && cost > 1);
        cost += u32::from(query.contains_key("$expand"));
        let limit = self.limits_of_users(caller);
        let service = Service::Users(caller.client, caller.cell.id);
        let share = match self.throttle(service, cost, limit) {
            Decision::Pass(share) => share,
            Decision::Wait(wait, share) => {
                return self
                    .throttled(wait, true)
                    .with(
                        "x-ms-throttle-limit-percentage",
                        format!("{:.1}", share.min(1.8)),
                    )
                    .with("x-ms-throttle-information", "ResourceUnitLimitExceeded")
                    .with(
                        "x-ms-throttle-scope",
                        format!(
                            "Tenant_Application/Read/{}/{}",
                            caller.client, caller.cell.id
                        ),
                    );
            }
        };
        let answer = if call.method == Method::GET {
            self.read_users(caller, call, &query, listing, top.as_ref())
        } else {
            error(
                405,
                "Request_BadRequest",
                "Specified HTTP method is not allowed for the request target.",
            )
        };
        let answer = answer.with("x-ms-resource-unit", cost.to_string());
        if share >= 0.8 {
            answer.with("x-ms-throttle-limit-percentage", format!("{share:.1}"))
        } else {
            answer
        }
    }

    fn read_users(
        &self,
        caller: &Caller,
        call: &Call,
        query: &HashMap<String, String>,
        listing: bool,
        top: Option<&Result<usize, std::num::ParseIntError>>,
    ) -> Answer {
        let select = match selected(caller, query) {
            Ok(select) => select,
            Err(answer) => return answer,
        };
        if !listing {
            return one(caller, call, &select, query.contains_key("$select"));
        }
        let guest = caller.person().is_some_and(|id| {
            let directory = caller.cell.directory();
            directory.by_id(id).is_none_or(|e| e.guest)
        });
        if !caller.may(&READ) || guest {
            return denied();
        }
        let max = self.inner.switches().max_top;
        let top = match top {
            None => PAGE,
            Some(Ok(top)) if (1..=max).contains(top) => *top,
            Some(_) => {
                return error(
                    400,
                    "Request_BadRequest",
                    format!("Invalid page size specified: must be between 1 and {max} inclusive."),
                );
            }
        };
        if let Some(option) = ["$skip", "$search", "$apply"]
            .iter()
            .find(|o| query.contains_key(**o))
        {
            return error(
                400,
                "Request_BadRequest",
                format!("'{option}' is not supported by the service."),
            );
        }
        let filter = match query.get("$filter").map(|f| filter::parse(f)).transpose() {
            Ok(filter) => filter,
            Err((code, message)) => return error(400, code, message),
        };
        let by_upn = filter.as_ref().is_some_and(|f| f.property == Property::Upn);
        let upn_readable = self.inner.switches().upn_is_basic
            || caller.may(&["User.Read.All", "Directory.Read.All"]);
        if by_upn && !upn_readable {
            return denied();
        }
        let mut directory = caller.cell.directory();
        let page = match &filter {
            Some(filter) => {
                let exact = !self.inner.switches().upn_ignores_case;
                Some((filtered(&directory, filter, &select, top, exact), None))
            }
            None => page(&directory, query, &select, top),
        };
        directory.listed();
        drop(directory);
        let Some((value, next)) = page else {
            return error(400, "Request_BadRequest", "The '$skiptoken' is not valid.");
        };
        let mut body = json!({
            "@odata.context": context(caller, query.get("$select"), ""),
            "value": value,
        });
        if let Some(next) = next {
            let pairs = query.iter().filter(|(name, _)| *name != "$skiptoken");
            let mut link = form_urlencoded::Serializer::new(String::new());
            link.extend_pairs(pairs)
                .append_pair("$skiptoken", &next.to_string());
            body["@odata.nextLink"] = format!("{}/users?{}", caller.root, link.finish()).into();
        }
        Answer::json(200, body)
    }
}

/// The properties asked for.
fn selected(caller: &Caller, query: &HashMap<String, String>) -> Result<Vec<String>, Answer> {
    let Some(select) = query.get("$select").filter(|s| !s.is_empty()) else {
        return Ok(DEFAULT.map(str::to_owned).into());
    };
    let names: Vec<String> = select.split(',').map(|s| s.trim().to_owned()).collect();
    for name in &names {
        if NOT_BASIC.contains(&name.as_str()) {
            if !caller.may(&["User.Read.All", "Directory.Read.All"]) {
                return Err(denied());
            }
        } else if !DEFAULT.contains(&name.as_str()) {
            return Err(error(
                400,
                "BadRequest",
                format!(
                    "Parsing OData Select and Expand failed: Could not find a property named '{name}' on type 'microsoft.graph.user'."
                ),
            ));
        }
    }
    Ok(names)
}

fn filtered(
    directory: &Directory,
    filter: &Filter,
    select: &[String],
    top: usize,
    exact: bool,
) -> Vec<Value> {
    let mut found: Vec<&Entry> = filter
        .values
        .iter()
        .filter_map(|value| match filter.property {
            Property::Id => Uuid::try_parse(value)
                .ok()
                .and_then(|id| directory.by_id(id)),
            Property::Upn | Property::Mail => directory
                .by_upn(value)
                .filter(|e| !exact || e.upn == *value),
        })
        .filter(|e| e.hidden == 0)
        .collect();
    found.sort_unstable_by_key(|e| e.id);
    found.dedup_by_key(|e| e.id);
    // More than fit on the page: the rest of so short a list is given up, as no client asks for less than it filters.
    found.truncate(top);
    found.into_iter().map(|e| render(e, select)).collect()
}

fn page(
    directory: &Directory,
    query: &HashMap<String, String>,
    select: &[String],
    top: usize,
) -> Option<(Vec<Value>, Option<usize>)> {
    let from: usize = match query.get("$skiptoken") {
        Some(token) => token.parse().ok()?,
        None => 0,
    };
    let mut rest = directory
        .all()
        .filter(|(n, e)| *n >= from && e.hidden == 0)
        .peekable();
    let value = rest
        .by_ref()
        .take(top)
        .map(|(_, e)| render(e, select))
        .collect();
    Some((value, rest.peek().map(|(n, _)| *n)))
}

fn one(caller: &Caller, call: &Call, select: &[String], selected: bool) -> Answer {
    let own = caller.person();
    let key = match call.path.to_ascii_lowercase().as_str() {
        "me" => own.map(|id| id.to_string()),
        _ => key(&call.path),
    };
    if own.is_none() && call.path.eq_ignore_ascii_case("me") {
        return error(
            400,
            "BadRequest",
            "/me request is only valid with delegated authentication flow.",
        );
    }
    let Some(key) = key else {
        return not_found(&call.path);
    };
    let directory = caller.cell.directory();
    let found = match Uuid::try_parse(&key) {
        Ok(id) => directory.by_id(id),
        Err(_) => directory.by_upn(&key),
    };
    let is_own = own.is_some() && found.map(|e| e.id) == own;
    let allowed = caller.may(&READ) || (is_own && caller.may(&["User.Read"]));
    if !allowed {
        return denied();
    }
    let Some(entry) = found.filter(|e| e.hidden == 0) else {
        return error(
            404,
            "Request_ResourceNotFound",
            format!(
                "Resource '{key}' does not exist or one of its queried reference-property objects are not present."
            ),
        );
    };
    let mut body = render(entry, select);
    let names = selected.then(|| select.join(","));
    body["@odata.context"] = context(caller, names.as_ref(), "/$entity").into();
    Answer::json(200, body)
}

/// The id or UPN in `users/{key}` or `users('{key}')`; `None` when there is more in the path.
///
/// A UPN that begins with `$` is only understood in the second form.
fn key(path: &str) -> Option<String> {
    let rest = path.get(5..)?;
    let decode = |text: &str| Some(percent_decode_str(text).decode_utf8().ok()?.into_owned());
    if let Some(one) = rest.strip_prefix('/') {
        let key = decode(one)?;
        return (!one.contains('/') && !key.starts_with('$') && !key.is_empty()).then_some(key);
    }
    let decoded = decode(rest)?;
    let key = decoded.strip_prefix("('")?.strip_suffix("')")?;
    Some(key.replace("''", "'"))
}

fn context(caller: &Caller, select: Option<&String>, end: &str) -> String {
    match select {
        Some(select) => format!("{}/$metadata#users({select}){end}", caller.root),
        None => format!("{}/$metadata#users{end}", caller.root),
    }
}

fn render(entry: &Entry, select: &[String]) -> Value {
    let mut user = serde_json::Map::new();
    for name in select {
        let value = match name.as_str() {
            "id" => json!(entry.id),
            "userPrincipalName" => json!(entry.upn),
            "displayName" => json!(entry.display_name()),
            "givenName" => json!(entry.given),
            "surname" => json!(entry.family),
            "mail" if !entry.guest => json!(entry.upn),
            "businessPhones" => json!([]),
            "accountEnabled" => json!(entry.enabled),
            "userType" => json!(if entry.guest { "Guest" } else { "Member" }),
            _ => Value::Null,
        };
        user.insert(name.clone(), value);
    }
    Value::Object(user)
}

#[cfg(test)]
mod tests {
    use super::key;

    #[test]
    fn keys_are_read_as_documented() {
        assert_eq!(key("users/a%23EXT%23@b.com").unwrap(), "a#EXT#@b.com");
        assert_eq!(key("users('$a@b.com')").unwrap(), "$a@b.com");
        assert_eq!(key("users('o''b@c.com')").unwrap(), "o'b@c.com");
        assert_eq!(key("users/o'b@c.com").unwrap(), "o'b@c.com");
        assert_eq!(key("users/$a@b.com"), None);
        assert_eq!(key("users/a@b.com/manager"), None);
        assert_eq!(key("users/"), None);
    }
}
