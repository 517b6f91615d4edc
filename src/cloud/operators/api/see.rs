//! What is to be seen.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, header};
use serde::Deserialize;
use uuid::Uuid;

use super::ask::{self, Asked, Id, Nothing};
use super::caller::{Acting, Caller};
use super::problem::Problem;
use super::{AdminApi, DESCRIPTION};
use crate::cloud::operations::OperationError;
use crate::cloud::operations::answers::{
    Alerts, ApiTokens, Audit, Credentials, Me, Suites, Tenants,
};
use crate::cloud::operations::filter::{self, ATTENTIONS, HEALTHS, TenantFilter};
use crate::cloud::operations::view::{Overview, TenantDetail};
use crate::model::TenantId;

/// Most of anything on one page.
const MOST: u32 = 500;

/// As many on one page, unless said otherwise.
const USUAL: u32 = 100;

/// Most characters of a search.
const LONGEST_SEARCH: usize = 200;

/// A value, or why there is none.
pub type Answer<T> = Result<Json<T>, Problem>;

type Api = State<Arc<AdminApi>>;

fn limit(wanted: Option<u32>) -> Result<Option<u32>, Problem> {
    match wanted {
        Some(n) if n == 0 || n > MOST => Err(Problem::BadQuery(format!(
            "limit is between 1 and {MOST}, not {n}."
        ))),
        wanted => Ok(wanted),
    }
}

fn word(name: &str, wanted: Option<String>, words: &[&str]) -> Result<Option<String>, Problem> {
    match wanted {
        Some(word) if !words.contains(&word.as_str()) => Err(Problem::BadQuery(format!(
            "{name} is one of: {}.",
            words.join(", ")
        ))),
        wanted => Ok(wanted),
    }
}

/// The description of the API.
pub async fn description(_: Asked<Nothing>, headers: HeaderMap) -> Result<Response, Problem> {
    if !ask::accepts(&headers, ask::YAML) {
        return Err(Problem::NotAcceptable(ask::YAML));
    }
    Ok(([(header::CONTENT_TYPE, ask::YAML)], DESCRIPTION).into_response())
}

/// Who asks.
pub async fn me(caller: Caller, _: Asked<Nothing>) -> Answer<Me> {
    Ok(Json(caller.me))
}

/// Everything at one glance.
pub async fn overview(State(api): Api, _: Asked<Nothing>) -> Answer<Overview> {
    Ok(Json(api.operations().overview().await?))
}

/// Which tenants.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    health: Option<String>,
    attention: Option<String>,
    search: Option<String>,
    limit: Option<u32>,
    cursor: Option<Uuid>,
}

/// Tenants, by name: all that fit, or page by page.
pub async fn tenants(State(api): Api, Asked(wanted): Asked<Wanted>) -> Answer<Tenants> {
    let filter = TenantFilter {
        health: word("health", wanted.health, &HEALTHS)?,
        attention: word("attention", wanted.attention, &ATTENTIONS)?,
        search: wanted.search,
    };
    let search = filter.search.as_deref().unwrap_or_default();
    if search.chars().count() > LONGEST_SEARCH {
        return Err(Problem::BadQuery(format!(
            "search has at most {LONGEST_SEARCH} characters."
        )));
    }
    let most = limit(wanted.limit)?.and_then(|n| usize::try_from(n).ok());
    let seen = api.operations().overview().await?;
    let domains = api.operations().store().domains().await?;
    let after = wanted.cursor.map(TenantId);
    let page = filter::page(seen, &domains, &filter, after, most);
    let nobody = || OperationError::NoTenant(after.unwrap_or(TenantId(Uuid::nil())));
    Ok(Json(page.ok_or_else(nobody)?))
}

/// One tenant.
pub async fn tenant(State(api): Api, Id(id): Id, _: Asked<Nothing>) -> Answer<TenantDetail> {
    let detail = api.operations().tenant(TenantId(id)).await?;
    Ok(Json(detail.ok_or(OperationError::NoTenant(TenantId(id)))?))
}

async fn some_suites(api: &AdminApi, of: Option<TenantId>) -> Answer<Suites> {
    let operations = api.operations();
    Ok(Json(Suites {
        at: operations.now(),
        suites: operations.suites(of).await?,
    }))
}

/// All suites.
pub async fn suites(State(api): Api, _: Asked<Nothing>) -> Answer<Suites> {
    some_suites(&api, None).await
}

/// The suites of a tenant.
pub async fn suites_of(State(api): Api, Id(id): Id, _: Asked<Nothing>) -> Answer<Suites> {
    let tenant = TenantId(id);
    if api.operations().store().tenant(tenant).await?.is_none() {
        return Err(OperationError::NoTenant(tenant).into());
    }
    some_suites(&api, Some(tenant)).await
}

/// Which alerts.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WantedAlerts {
    tenant: Option<Uuid>,
    #[serde(default)]
    open: bool,
    limit: Option<u32>,
}

/// Alerts.
pub async fn alerts(State(api): Api, Asked(wanted): Asked<WantedAlerts>) -> Answer<Alerts> {
    let operations = api.operations();
    let most = limit(wanted.limit)?.unwrap_or(USUAL);
    let tenant = wanted.tenant.map(TenantId);
    Ok(Json(Alerts {
        at: operations.now(),
        alerts: operations.alerts(tenant, wanted.open, most).await?,
    }))
}

/// Which entries.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WantedEntries {
    tenant: Option<Uuid>,
    before: Option<i64>,
    limit: Option<u32>,
}

/// The audit log.
pub async fn audit(State(api): Api, Asked(wanted): Asked<WantedEntries>) -> Answer<Audit> {
    let most = limit(wanted.limit)?.unwrap_or(USUAL);
    let tenant = wanted.tenant.map(TenantId);
    let entries = api.operations().audit(tenant, wanted.before, most).await?;
    let full = u32::try_from(entries.len()).is_ok_and(|n| n == most);
    Ok(Json(Audit {
        next: entries.last().filter(|_| full).map(|e| e.id),
        entries,
    }))
}

/// Our own credentials at Microsoft.
pub async fn credentials(State(api): Api, _: Asked<Nothing>) -> Answer<Credentials> {
    let operations = api.operations();
    Ok(Json(Credentials {
        at: operations.now(),
        credentials: operations.credentials(),
    }))
}

/// The tokens of this API: for who makes and revokes them.
pub async fn api_tokens(State(api): Api, _: Acting, _: Asked<Nothing>) -> Answer<ApiTokens> {
    let operations = api.operations();
    Ok(Json(ApiTokens {
        at: operations.now(),
        tokens: operations.api_tokens().await?,
    }))
}
