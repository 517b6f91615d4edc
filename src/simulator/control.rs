//! The control API under `/sim`, for people and tests. JSON in, JSON out; errors say what is valid.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use uuid::Uuid;

use super::counts::Endpoint;
use super::faults::{Fault, FaultParams, InvalidFault, Scope};
use super::options::PersonalAccounts;
use super::tenant::{NationalCloud, NationalDiscovery, Tenant, TenantSpec};
use super::world::Microsoft;
use crate::model::TenantId;

/// A request that cannot be done, and why.
struct Refused(StatusCode, String, Value);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1, "valid": self.2 }))).into_response()
    }
}

fn bad(why: impl Into<String>, valid: Value) -> Refused {
    Refused(StatusCode::BAD_REQUEST, why.into(), valid)
}

type Answer = Result<Json<Value>, Refused>;

pub fn router() -> Router<Microsoft> {
    Router::new()
        .route("/sim", get(overview))
        .route("/sim/faults", get(faults).post(set_fault).delete(clear_all))
        .route("/sim/faults/{name}", axum::routing::delete(clear_one))
        .route("/sim/presence", post(presence))
        .route("/sim/people/{action}", post(people))
        .route("/sim/requests", get(requests))
        .route("/sim/refresh-token", post(refresh_token))
        .route("/sim/tenants", post(add_tenant))
        .route("/sim/consent", post(consent))
        .route("/sim/organisation", post(organisation))
        .route("/sim/switches", post(switches))
        .route("/sim/expire-tokens", post(expire_tokens))
        .route("/sim/rotate-keys", post(rotate_keys))
        .route("/sim/{*rest}", axum::routing::any(nothing_here))
}

async fn nothing_here() -> Refused {
    Refused(
        StatusCode::NOT_FOUND,
        "there is nothing at this address".to_owned(),
        json!([
            "GET /sim",
            "GET /sim/faults",
            "POST /sim/faults",
            "DELETE /sim/faults",
            "DELETE /sim/faults/NAME",
            "POST /sim/presence",
            format!("POST /sim/people/{{add,guest,{}}}", ACTIONS.join(",")),
            "GET /sim/requests",
            "POST /sim/refresh-token",
            "POST /sim/tenants",
            "POST /sim/consent",
            "POST /sim/organisation",
            "POST /sim/switches",
            "POST /sim/expire-tokens",
            "POST /sim/rotate-keys",
        ]),
    )
}

/// Reads a body, whatever its `Content-Type`.
fn read<T: DeserializeOwned>(body: &Bytes, example: Value) -> Result<T, Refused> {
    serde_json::from_slice(body).map_err(|e| bad(format!("the body cannot be read: {e}"), example))
}

fn tenant(microsoft: &Microsoft, named: &str) -> Result<Tenant, Refused> {
    microsoft.tenant(named).ok_or_else(|| {
        let all: Vec<_> = microsoft
            .tenants()
            .iter()
            .map(|t| t.domain().to_owned())
            .collect();
        bad(format!("there is no tenant \"{named}\""), json!(all))
    })
}

/// The tenant a UPN belongs to; guests and odd domains are searched for.
fn tenant_of(microsoft: &Microsoft, upn: &str) -> Result<Tenant, Refused> {
    microsoft
        .tenants()
        .into_iter()
        .find(|t| t.person(upn).is_some())
        .ok_or_else(|| {
            bad(
                format!("nobody is called \"{upn}\""),
                json!({ "a name": microsoft.tenants().first().and_then(|t| Some(t.people().first()?.upn.clone())) }),
            )
        })
}

async fn overview(State(microsoft): State<Microsoft>) -> Json<Value> {
    let tenants: Vec<_> = microsoft
        .tenants()
        .iter()
        .map(|t| {
            json!({ "id": t.id().to_string(), "domain": t.domain(), "name": t.name(), "people": t.people().len() })
        })
        .collect();
    Json(json!({
        "tenants": tenants,
        "faults": active(&microsoft),
        "requests": counts(&microsoft),
    }))
}

fn active(microsoft: &Microsoft) -> Value {
    microsoft
        .faults()
        .iter()
        .map(|a| {
            json!({
                "name": a.fault.name(),
                "fault": format!("{:?}", a.fault),
                "tenant": a.scope.tenant().map(|t| t.to_string()),
                "endpoint": a.scope.endpoint().map(Endpoint::as_str),
                "left": a.left,
            })
        })
        .collect()
}

fn known_faults() -> Value {
    Fault::ALL
        .iter()
        .map(|f| json!({ "name": f.name, "parameters": f.parameters, "about": f.about }))
        .collect()
}

async fn faults(State(microsoft): State<Microsoft>) -> Json<Value> {
    Json(json!({ "on": active(&microsoft), "known": known_faults() }))
}

#[derive(Deserialize)]
struct SetFault {
    name: String,
    tenant: Option<String>,
    endpoint: Option<String>,
    count: Option<u32>,
    #[serde(flatten)]
    params: serde_json::Map<String, Value>,
}

async fn set_fault(State(microsoft): State<Microsoft>, body: Bytes) -> Answer {
    let example = json!({ "name": "throttle", "tenant": "contoso.example", "endpoint": "presence", "count": 3, "retry_after": 10 });
    let wanted: SetFault = read(&body, example)?;
    let parameters = json!([
        "retry_after",
        "delay_ms",
        "user",
        "status",
        "to",
        "grant",
        "flaw"
    ]);
    let params: FaultParams = serde_json::from_value(Value::Object(wanted.params))
        .map_err(|e| bad(e.to_string(), parameters))?;
    let fault = Fault::parse(&wanted.name, &params).map_err(|e| match e {
        InvalidFault::UnknownName(_) => {
            let names: Vec<_> = Fault::ALL.iter().map(|f| f.name).collect();
            bad(e.to_string(), json!(names))
        }
        InvalidFault::Needs(..) => bad(e.to_string(), known_faults()),
    })?;
    let tenant = wanted
        .tenant
        .map(|t| tenant(&microsoft, &t))
        .transpose()?
        .map(|t| t.id());
    let endpoint = match wanted.endpoint {
        None => None,
        Some(name) => Some(Endpoint::parse(&name).ok_or_else(|| {
            bad(
                format!("there is no endpoint \"{name}\""),
                json!(Endpoint::ALL.map(Endpoint::as_str)),
            )
        })?),
    };
    microsoft.set_fault(fault, Scope::of(tenant, endpoint), wanted.count);
    Ok(Json(json!({ "on": active(&microsoft) })))
}

async fn clear_all(State(microsoft): State<Microsoft>) -> Json<Value> {
    let cleared = microsoft.clear_faults(None, None);
    Json(json!({ "cleared": cleared, "on": active(&microsoft) }))
}

async fn clear_one(State(microsoft): State<Microsoft>, Path(name): Path<String>) -> Answer {
    match microsoft.clear_faults(Some(&name), None) {
        0 => {
            let on: Vec<_> = microsoft.faults().iter().map(|a| a.fault.name()).collect();
            Err(Refused(
                StatusCode::NOT_FOUND,
                format!("the fault \"{name}\" is not on"),
                json!(on),
            ))
        }
        cleared => Ok(Json(
            json!({ "cleared": cleared, "on": active(&microsoft) }),
        )),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetPresence {
    upn: String,
    availability: Option<String>,
    activity: Option<String>,
    out_of_office: Option<bool>,
    out_of_office_message: Option<String>,
    status_message: Option<String>,
    work_location: Option<String>,
    #[serde(default)]
    clear: bool,
}

async fn presence(State(microsoft): State<Microsoft>, body: Bytes) -> Answer {
    let example = json!({ "upn": "ada.smith@contoso.example", "availability": "Busy", "activity": "InACall" });
    let wanted: SetPresence = read(&body, example.clone())?;
    let upn = wanted.upn.as_str();
    let tenant = tenant_of(&microsoft, upn)?;
    let mut changed = false;
    if wanted.clear {
        changed |= tenant.clear_presence(upn);
    }
    if let Some(availability) = wanted
        .availability
        .as_deref()
        .or(wanted.activity.as_deref())
    {
        let activity = wanted.activity.as_deref().unwrap_or(availability);
        changed |= tenant.set_presence(upn, availability, activity);
    }
    if let Some(out) = wanted.out_of_office {
        changed |= tenant.set_out_of_office(upn, out, wanted.out_of_office_message.as_deref());
    }
    if let Some(text) = wanted.status_message.as_deref() {
        changed |= tenant.set_status_message(upn, Some(text).filter(|t| !t.is_empty()));
    }
    if let Some(location) = wanted.work_location.as_deref() {
        changed |= tenant.set_work_location(upn, Some(location));
    }
    if changed {
        Ok(Json(json!({ "upn": upn, "tenant": tenant.domain() })))
    } else {
        Err(bad("nothing to change was given", example))
    }
}

/// What can happen to somebody who is there.
const ACTIONS: [&str; 11] = [
    "rename",
    "delete",
    "disable",
    "enable",
    "revoke",
    "reset-password",
    "change-password",
    "demand-mfa",
    "waive-mfa",
    "administrator",
    "ordinary",
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OnePerson {
    upn: String,
    to: Option<String>,
    tenant: Option<String>,
}

async fn people(
    State(microsoft): State<Microsoft>,
    Path(action): Path<String>,
    body: Bytes,
) -> Answer {
    let example = json!({ "upn": "ada.smith@contoso.example", "to": "ada.jones@contoso.example", "tenant": "contoso.example" });
    let wanted: OnePerson = read(&body, example.clone())?;
    let upn = wanted.upn.as_str();
    let of = |named: Option<&str>| match named {
        Some(named) => tenant(&microsoft, named),
        None => tenant(&microsoft, upn.rsplit('@').next().unwrap_or_default()),
    };
    if matches!(action.as_str(), "add" | "guest") {
        let tenant = of(wanted.tenant.as_deref())?;
        let person = match action.as_str() {
            "add" => tenant.add_person(upn),
            _ => tenant.add_guest(upn),
        };
        return Ok(Json(
            json!({ "id": person.id.to_string(), "upn": person.upn }),
        ));
    }
    let tenant = tenant_of(&microsoft, upn)?;
    let done = match action.as_str() {
        "rename" => match wanted.to.as_deref() {
            Some(to) => tenant.rename_person(upn, to),
            None => return Err(bad("rename needs the new name: to", example)),
        },
        "delete" => tenant.delete_person(upn),
        "disable" => tenant.disable_person(upn),
        "enable" => tenant.enable_person(upn),
        "revoke" => tenant.revoke_sessions(upn),
        "reset-password" => tenant.reset_password(upn),
        "change-password" => tenant.change_password(upn),
        "demand-mfa" => tenant.demand_mfa(upn, true),
        "waive-mfa" => tenant.demand_mfa(upn, false),
        "administrator" => tenant.set_administrator(upn, true),
        "ordinary" => tenant.set_administrator(upn, false),
        _ => {
            let valid = ["add", "guest"].iter().chain(&ACTIONS).collect::<Vec<_>>();
            return Err(bad(
                format!("there is no action \"{action}\""),
                json!(valid),
            ));
        }
    };
    if done {
        Ok(Json(json!({ "done": action })))
    } else {
        Err(Refused(
            StatusCode::CONFLICT,
            "somebody else has that name".to_owned(),
            Value::Null,
        ))
    }
}

fn counts(microsoft: &Microsoft) -> Value {
    let requests = microsoft.requests();
    let by: Vec<_> = requests
        .iter()
        .map(|(endpoint, tenant, c)| {
            json!({
                "endpoint": endpoint.as_str(), "tenant": tenant.map(|t: TenantId| t.to_string()),
                "total": c.total, "ok": c.ok, "throttled": c.throttled, "errors": c.errors,
            })
        })
        .collect();
    json!({ "by": by, "largest_ids": requests.largest_ids })
}

async fn requests(State(microsoft): State<Microsoft>) -> Json<Value> {
    Json(counts(&microsoft))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ForAccount {
    client_id: Uuid,
    upn: String,
}

async fn refresh_token(State(microsoft): State<Microsoft>, body: Bytes) -> Answer {
    let wanted: ForAccount = read(
        &body,
        json!({ "client_id": Uuid::nil(), "upn": "ada.smith@contoso.example" }),
    )?;
    let tenant = tenant_of(&microsoft, &wanted.upn)?;
    let token = tenant.mint_refresh_token(wanted.client_id, &wanted.upn);
    Ok(Json(
        json!({ "tenant": tenant.id().to_string(), "refresh_token": token }),
    ))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewTenant {
    domain: String,
    name: Option<String>,
    #[serde(default)]
    people: usize,
}

async fn add_tenant(State(microsoft): State<Microsoft>, body: Bytes) -> Answer {
    let wanted: NewTenant = read(
        &body,
        json!({ "domain": "contoso.example", "name": "Contoso", "people": 100 }),
    )?;
    if microsoft.tenant(&wanted.domain).is_some() {
        return Err(Refused(
            StatusCode::CONFLICT,
            format!("there is a tenant \"{}\" already", wanted.domain),
            Value::Null,
        ));
    }
    let tenant = microsoft.add_tenant(TenantSpec {
        id: None,
        name: wanted.name.unwrap_or_else(|| wanted.domain.clone()),
        domain: wanted.domain,
        people: wanted.people.min(200_000),
    });
    Ok(Json(
        json!({ "id": tenant.id().to_string(), "domain": tenant.domain() }),
    ))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetConsent {
    tenant: String,
    client_id: Uuid,
    #[serde(default)]
    withdraw: bool,
    application: Option<Vec<String>>,
    delegated: Option<Vec<String>>,
}

async fn consent(State(microsoft): State<Microsoft>, body: Bytes) -> Answer {
    let example = json!({ "tenant": "contoso.example", "client_id": Uuid::nil(), "withdraw": false,
        "application": ["Presence.Read.All", "User.ReadBasic.All"], "delegated": [] });
    let wanted: SetConsent = read(&body, example)?;
    let tenant = tenant(&microsoft, &wanted.tenant)?;
    if wanted.withdraw {
        tenant.withdraw_consent(wanted.client_id);
        return Ok(Json(json!({ "withdrawn": tenant.domain() })));
    }
    let usual = || {
        vec![
            "Presence.Read.All".to_owned(),
            "User.ReadBasic.All".to_owned(),
        ]
    };
    let application = wanted.application.unwrap_or_else(usual);
    let delegated = wanted.delegated.unwrap_or_default();
    let texts = |list: &[String]| list.iter().map(String::clone).collect::<Vec<_>>();
    let (a, d) = (texts(&application), texts(&delegated));
    let a: Vec<&str> = a.iter().map(String::as_str).collect();
    let d: Vec<&str> = d.iter().map(String::as_str).collect();
    tenant.grant_consent(wanted.client_id, &a, &d);
    Ok(Json(
        json!({ "granted": tenant.domain(), "application": a, "delegated": d }),
    ))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OneTenant {
    tenant: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetOrganisation {
    tenant: String,
    client_id: Option<Uuid>,
    user_consent: Option<bool>,
    blocked: Option<bool>,
    sign_in_every_secs: Option<u64>,
    application: Option<String>,
    assignment_required: Option<bool>,
    assign: Option<String>,
    deleted: Option<bool>,
    cloud: Option<String>,
    discovery: Option<String>,
}

async fn organisation(State(microsoft): State<Microsoft>, body: Bytes) -> Answer {
    let example = json!({
        "tenant": "contoso.example", "client_id": Uuid::nil(), "user_consent": true, "blocked": false, "sign_in_every_secs": 0,
        "application": "enabled, disabled or removed", "assignment_required": false, "assign": "ada.smith@contoso.example",
        "deleted": false, "cloud": "global, us-government or china", "discovery": "refused or document",
    });
    let wanted: SetOrganisation = read(&body, example.clone())?;
    let tenant = tenant(&microsoft, &wanted.tenant)?;
    let client = || {
        wanted
            .client_id
            .ok_or_else(|| bad("it needs the application: client_id", example.clone()))
    };
    // Everything is looked at before anything is changed.
    let application = wanted
        .application
        .as_deref()
        .map(|word| match word {
            "enabled" | "disabled" | "removed" => Ok((word, client()?)),
            _ => Err(bad(
                format!("an application is not \"{word}\""),
                json!(["enabled", "disabled", "removed"]),
            )),
        })
        .transpose()?;
    let required = wanted
        .assignment_required
        .map(|required| Ok((required, client()?)))
        .transpose()?;
    let assigned = wanted
        .assign
        .as_deref()
        .map(|upn| Ok((upn, client()?)))
        .transpose()?;
    let cloud = wanted
        .cloud
        .as_deref()
        .map(|name| cloud(name, wanted.discovery.as_deref()))
        .transpose()?;
    if let Some(allowed) = wanted.user_consent {
        tenant.allow_user_consent(allowed);
    }
    if let Some(blocked) = wanted.blocked {
        tenant.block_by_policy(blocked);
    }
    if let Some(secs) = wanted.sign_in_every_secs {
        tenant.set_sign_in_frequency((secs > 0).then(|| Duration::from_secs(secs)));
    }
    match application {
        Some(("removed", client)) => tenant.remove_application(client),
        Some((word, client)) => tenant.enable_application(client, word == "enabled"),
        None => {}
    }
    if let Some((required, client)) = required {
        tenant.require_assignment(client, required);
    }
    if let Some((upn, client)) = assigned
        && !tenant.assign(client, upn)
    {
        return Err(bad(
            "nobody is called that, or the application requires no assignment",
            example,
        ));
    }
    if let Some(deleted) = wanted.deleted {
        tenant.set_deleted(deleted);
    }
    if let Some(cloud) = cloud {
        tenant.set_cloud(cloud);
    }
    Ok(Json(json!({ "changed": tenant.domain() })))
}

fn cloud(
    name: &str,
    discovery: Option<&str>,
) -> Result<Option<(NationalCloud, NationalDiscovery)>, Refused> {
    if name == "global" {
        return Ok(None);
    }
    let names = NationalCloud::ALL.map(|(name, _)| name);
    let (_, cloud) = NationalCloud::ALL
        .into_iter()
        .find(|(n, _)| *n == name)
        .ok_or_else(|| {
            bad(
                format!("there is no cloud \"{name}\""),
                json!([&["global"][..], &names].concat()),
            )
        })?;
    let discovery = match discovery {
        None | Some("refused") => NationalDiscovery::Refused,
        Some("document") => NationalDiscovery::Document,
        Some(other) => {
            return Err(bad(
                format!("discovery does not answer with \"{other}\""),
                json!(["refused", "document"]),
            ));
        }
    };
    Ok(Some((cloud, discovery)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetSwitches {
    personal_accounts: Option<bool>,
    refusals_come_back: Option<bool>,
    wids: Option<bool>,
    consent_propagation_secs: Option<u64>,
}

async fn switches(State(microsoft): State<Microsoft>, body: Bytes) -> Answer {
    let example = json!({ "personal_accounts": true, "refusals_come_back": false, "wids": true, "consent_propagation_secs": 0 });
    let wanted: SetSwitches = read(&body, example)?;
    microsoft.set_switches(|s| {
        if let Some(allowed) = wanted.personal_accounts {
            s.personal_accounts = if allowed {
                PersonalAccounts::IdToken
            } else {
                PersonalAccounts::Refused
            };
        }
        s.refusals_come_back = wanted.refusals_come_back.unwrap_or(s.refusals_come_back);
        s.wids = wanted.wids.unwrap_or(s.wids);
        if let Some(secs) = wanted.consent_propagation_secs {
            s.consent_propagation = Duration::from_secs(secs);
        }
    });
    Ok(Json(json!({ "changed": true })))
}

async fn expire_tokens(State(microsoft): State<Microsoft>, body: Bytes) -> Answer {
    let wanted: OneTenant = read(&body, json!({ "tenant": "contoso.example" }))?;
    let tenant = tenant(&microsoft, &wanted.tenant)?;
    microsoft.expire_access_tokens(tenant.id());
    Ok(Json(json!({ "expired": tenant.domain() })))
}

async fn rotate_keys(State(microsoft): State<Microsoft>) -> Json<Value> {
    microsoft.rotate_signing_keys();
    Json(json!({ "rotated": true }))
}
