//! What is done. Who may not act gets no further than [`Acting`], whatever else he sends.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde::Deserialize;
use uuid::Uuid;

use super::AdminApi;
use super::ask::{Asked, Body, Id, NDJSON, Name, Nothing, whole};
use super::caller::{Acting, Caller};
use super::problem::Problem;
use super::see::Answer;
use crate::cloud::admin::DEFAULT_CODE_LIFE;
use crate::cloud::operations::OperationError;
use crate::cloud::operations::answers::{
    AlertsTested, Invited, LinkMade, Offboarded, SuiteDone, TenantDone, TokenMade,
};
use crate::cloud::operations::api_tokens;
use crate::cloud::operators::act::{LINK_LIFE, MOST_BYTES};
use crate::cloud::store::{AuditEntry, Role, TenantRow};
use crate::model::{SuiteId, TenantId};

const HOUR: Duration = Duration::from_hours(1);

const DAY: Duration = Duration::from_hours(24);

type Api = State<Arc<AdminApi>>;

/// How long something is to be good: so many of `unit`, at least one.
fn life(
    name: &str,
    wanted: Option<u32>,
    unit: Duration,
    most: u32,
    usual: Duration,
) -> Result<Duration, Problem> {
    match wanted {
        None => Ok(usual),
        Some(n) if (1..=most).contains(&n) => Ok(unit * n),
        Some(n) => Err(Problem::BadBody(format!(
            "{name} is between 1 and {most}, not {n}."
        ))),
    }
}

async fn row(api: &AdminApi, tenant: TenantId) -> Result<TenantRow, Problem> {
    let row = api.operations().store().tenant(tenant).await?;
    Ok(row.ok_or(OperationError::NoTenant(tenant))?)
}

async fn done(api: &AdminApi, tenant: TenantId) -> Answer<TenantDone> {
    let row = row(api, tenant).await?;
    Ok(Json(TenantDone {
        tenant,
        name: row.name,
        status: row.status.as_str().into(),
        at: api.operations().now(),
    }))
}

/// Stops reading.
pub async fn pause(
    State(api): Api,
    Acting(by): Acting,
    Id(id): Id,
    _: Body<Nothing>,
) -> Answer<TenantDone> {
    api.operations().pause(&by, TenantId(id)).await?;
    done(&api, TenantId(id)).await
}

/// Goes on.
pub async fn resume(
    State(api): Api,
    Acting(by): Acting,
    Id(id): Id,
    _: Body<Nothing>,
) -> Answer<TenantDone> {
    api.operations().resume(&by, TenantId(id)).await?;
    done(&api, TenantId(id)).await
}

/// Tries the connection at once.
pub async fn refresh(
    State(api): Api,
    Acting(by): Acting,
    Id(id): Id,
    _: Body<Nothing>,
) -> Answer<TenantDone> {
    api.operations().refresh(&by, TenantId(id)).await?;
    done(&api, TenantId(id)).await
}

/// What link is wanted.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WantedLink {
    #[serde(default, deserialize_with = "whole")]
    days: Option<u32>,
}

/// To whom such a link is to be sent.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WantedMail {
    email: String,
    #[serde(default, deserialize_with = "whole")]
    days: Option<u32>,
}

/// The same, by mail.
pub async fn send_link(
    State(api): Api,
    Acting(by): Acting,
    Id(id): Id,
    Body(wanted): Body<WantedMail>,
) -> Answer<TenantDone> {
    let valid_for = life("days", wanted.days, DAY, 90, LINK_LIFE)?;
    let (tenant, to) = (TenantId(id), &wanted.email);
    let operations = api.operations();
    operations.send_link(&by, tenant, to, valid_for).await?;
    done(&api, tenant).await
}

/// A test message to everybody who is told about alerts.
pub async fn test_alerts(
    State(api): Api,
    Acting(by): Acting,
    _: Body<Nothing>,
) -> Answer<AlertsTested> {
    Ok(Json(AlertsTested {
        receivers: api.operations().test_alerts(&by).await?,
    }))
}

/// A secret link for the customer.
pub async fn link(
    State(api): Api,
    Acting(by): Acting,
    Id(id): Id,
    Body(wanted): Body<WantedLink>,
) -> Answer<LinkMade> {
    let valid_for = life("days", wanted.days, DAY, 90, LINK_LIFE)?;
    let tenant = TenantId(id);
    let link = api.operations().relink(&by, tenant, valid_for).await?;
    Ok(Json(LinkMade {
        tenant,
        name: row(&api, tenant).await?.name,
        url: link.url.expose().to_owned(),
        until: link.until,
    }))
}

/// What invitation is wanted.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WantedInvitation {
    #[serde(default, deserialize_with = "whole")]
    hours: Option<u32>,
}

/// An enrolment code for a suite.
pub async fn invite(
    State(api): Api,
    Acting(by): Acting,
    Id(id): Id,
    Body(wanted): Body<WantedInvitation>,
) -> Answer<Invited> {
    let valid_for = life("hours", wanted.hours, HOUR, 720, DEFAULT_CODE_LIFE)?;
    let tenant = TenantId(id);
    let made = api.operations().invite(&by, tenant, valid_for).await?;
    Ok(Json(Invited {
        tenant,
        name: row(&api, tenant).await?.name,
        code: made.code.expose().to_owned(),
        until: made.until,
        command: made.command,
        address: made.address,
    }))
}

/// What was typed to confirm.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confirmed {
    confirm: String,
}

/// Off-boards a tenant.
pub async fn offboard(
    State(api): Api,
    Acting(by): Acting,
    Id(id): Id,
    Body(confirmed): Body<Confirmed>,
) -> Answer<Offboarded> {
    let typed = &confirmed.confirm;
    let receipt = api.operations().offboard(&by, TenantId(id), typed).await?;
    Ok(Json(receipt.into()))
}

/// Revokes a suite.
pub async fn revoke(
    State(api): Api,
    Acting(by): Acting,
    Id(id): Id,
    _: Body<Nothing>,
) -> Answer<SuiteDone> {
    let (suite, operations) = (SuiteId(id), api.operations());
    operations.revoke(&by, suite).await?;
    let suites = operations.suites(None).await?;
    let line = suites.into_iter().find(|s| s.id == suite);
    let line = line.ok_or(OperationError::NoSuite(suite))?;
    Ok(Json(SuiteDone {
        suite,
        name: line.name,
        tenant: line.tenant,
        tenant_name: line.tenant_name,
        status: line.status,
        at: operations.now(),
    }))
}

/// What is exported.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WantedExport {
    tenant: Option<Uuid>,
}

/// The audit log, an entry a line, newest first. That it was taken is entered first, so it says so itself.
pub async fn export(
    State(api): Api,
    Acting(by): Acting,
    Body(wanted): Body<WantedExport>,
) -> Result<Response, Problem> {
    let mut body = String::new();
    let add = |entry: &AuditEntry| -> Result<(), Problem> {
        let line = serde_json::to_string(entry).map_err(|e| Problem::Ours(e.to_string()))?;
        body.push_str(&line);
        body.push('\n');
        if body.len() > MOST_BYTES {
            return Err(Problem::TooMuch);
        }
        Ok(())
    };
    let tenant = wanted.tenant.map(TenantId);
    api.operations()
        .export(&by, tenant, "as JSON lines", add)
        .await?;
    Ok(([(header::CONTENT_TYPE, NDJSON)], body).into_response())
}

/// What token is wanted.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WantedToken {
    name: String,
    role: Role,
    #[serde(default, deserialize_with = "whole")]
    days: Option<u32>,
}

/// Makes a token of this API.
pub async fn make_api_token(
    State(api): Api,
    caller: Caller,
    Acting(by): Acting,
    Body(wanted): Body<WantedToken>,
) -> Result<(StatusCode, Json<TokenMade>), Problem> {
    let valid_for = life("days", wanted.days, DAY, 365, api_tokens::USUAL)?;
    let (operations, name) = (api.operations(), &wanted.name);
    let at_most = caller.at_most(operations.now());
    let valid_for = at_most.map_or(valid_for, |most| valid_for.min(most));
    let made = operations.make_api_token(&by, name, wanted.role, valid_for);
    Ok((StatusCode::CREATED, Json(made.await?)))
}

/// Revokes a token of this API.
pub async fn revoke_api_token(
    State(api): Api,
    Acting(by): Acting,
    Name(name): Name,
    _: Asked<Nothing>,
) -> Result<StatusCode, Problem> {
    api.operations().revoke_api_token(&by, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}
