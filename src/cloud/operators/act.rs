//! What operators do. Every act is a form; what may be shown only once is the answer to it, and is kept nowhere.

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use uuid::Uuid;

use super::desk::{Answer, Common, Desk, Failure, Nothing, Order, Place, Viewer, go, page};
use super::pages::download;
use super::texts::Texts;
use crate::cloud::admin::DEFAULT_CODE_LIFE;
use crate::cloud::operations::OperationError;
use crate::cloud::store::{AuditEntry, Role};
use crate::cloud::web::pages::time;
use crate::model::{SuiteId, TenantId};

/// How long a link is good: a customer's administrator may be on holiday for days.
pub(super) const LINK_LIFE: Duration = Duration::from_hours(7 * 24);

/// Most bytes of an export: far more than a year of a large service.
pub(super) const MOST_BYTES: usize = 64 << 20;

fn back(id: Uuid, done: &str) -> Response {
    go(&format!("/tenants/{id}?done={done}"))
}

/// Stops reading.
pub async fn pause(
    State(desk): State<Arc<Desk>>,
    Place(id): Place<Uuid>,
    order: Order<Nothing>,
) -> Answer {
    desk.operations().pause(&order.by, TenantId(id)).await?;
    Ok(back(id, "paused"))
}

/// Goes on.
pub async fn resume(
    State(desk): State<Arc<Desk>>,
    Place(id): Place<Uuid>,
    order: Order<Nothing>,
) -> Answer {
    desk.operations().resume(&order.by, TenantId(id)).await?;
    Ok(back(id, "resumed"))
}

/// Tries the connection at once.
pub async fn refresh(
    State(desk): State<Arc<Desk>>,
    Place(id): Place<Uuid>,
    order: Order<Nothing>,
) -> Answer {
    desk.operations().refresh(&order.by, TenantId(id)).await?;
    Ok(back(id, "refreshed"))
}

/// What is shown once.
#[derive(Template)]
#[template(path = "operators/once.html")]
struct OncePage {
    t: &'static Texts,
    c: Common,
    id: Uuid,
    title: String,
    text: &'static str,
    secret: String,
    until: String,
    command: String,
    ini: String,
}

async fn name(desk: &Desk, id: Uuid) -> Result<String, Failure> {
    let row = desk.operations().store().tenant(TenantId(id)).await?;
    Ok(row.ok_or(Failure::NotFound)?.name)
}

/// A secret link for the customer.
pub async fn link(
    State(desk): State<Arc<Desk>>,
    Place(id): Place<Uuid>,
    order: Order<Nothing>,
) -> Answer {
    let (t, name) = (desk.texts, name(&desk, id).await?);
    let made = desk
        .operations()
        .relink(&order.by, TenantId(id), LINK_LIFE)
        .await?;
    page(&OncePage {
        t,
        c: order.viewer.common("overview"),
        id,
        title: Texts::fill(t.act.link, name),
        text: t.act.link_text,
        secret: made.url.expose().to_owned(),
        until: time(made.until),
        command: String::new(),
        ini: String::new(),
    })
}

/// To whom a link is sent.
#[derive(Deserialize)]
pub struct Recipient {
    email: String,
}

/// The same by mail.
pub async fn send_link(
    State(desk): State<Arc<Desk>>,
    Place(id): Place<Uuid>,
    order: Order<Recipient>,
) -> Answer {
    let to = &order.form.email;
    desk.operations()
        .send_link(&order.by, TenantId(id), to, LINK_LIFE)
        .await?;
    Ok(back(id, "sent"))
}

/// An enrolment code for a suite.
pub async fn invite(
    State(desk): State<Arc<Desk>>,
    Place(id): Place<Uuid>,
    order: Order<Nothing>,
) -> Answer {
    let (t, name) = (desk.texts, name(&desk, id).await?);
    let made = desk
        .operations()
        .invite(&order.by, TenantId(id), DEFAULT_CODE_LIFE)
        .await?;
    page(&OncePage {
        t,
        c: order.viewer.common("overview"),
        id,
        title: Texts::fill(t.act.invite, name),
        text: t.act.invite_text,
        until: time(made.until),
        ini: format!(
            "[PresenceCloud]\nAddress={}\nEnrolmentCode={}\nSuiteName=Reception\n",
            made.address,
            made.code.expose()
        ),
        secret: made.code.expose().to_owned(),
        command: made.command,
    })
}

/// Asks once more.
#[derive(Template)]
#[template(path = "operators/confirm.html")]
struct ConfirmPage {
    t: &'static Texts,
    c: Common,
    id: Uuid,
    action: String,
    title: String,
    text: &'static str,
    /// What has to be typed; empty for nothing.
    typed: String,
    problem: String,
    button: &'static str,
}

fn may_act(viewer: &Viewer) -> Result<(), Failure> {
    if viewer.role == Role::Operator {
        return Ok(());
    }
    Err(Failure::Forbidden)
}

/// Before a suite is revoked.
pub async fn before_revoke(
    State(desk): State<Arc<Desk>>,
    viewer: Viewer,
    Place((id, suite)): Place<(Uuid, Uuid)>,
) -> Answer {
    may_act(&viewer)?;
    let suites = desk.operations().suites(Some(TenantId(id))).await?;
    let found = suites.into_iter().find(|s| s.id == SuiteId(suite));
    let (t, found) = (desk.texts, found.ok_or(Failure::NotFound)?);
    page(&ConfirmPage {
        t,
        c: viewer.common("overview"),
        id,
        action: format!("/tenants/{id}/suites/{suite}/revoke"),
        title: Texts::fill(t.act.revoke, found.name),
        text: t.act.revoke_text,
        typed: String::new(),
        problem: String::new(),
        button: t.act.revoke_go,
    })
}

/// Revokes a suite of that tenant.
pub async fn revoke(
    State(desk): State<Arc<Desk>>,
    Place((id, suite)): Place<(Uuid, Uuid)>,
    order: Order<Nothing>,
) -> Answer {
    let suites = desk.operations().suites(Some(TenantId(id))).await?;
    if !suites.iter().any(|s| s.id == SuiteId(suite)) {
        return Err(Failure::NotFound);
    }
    desk.operations().revoke(&order.by, SuiteId(suite)).await?;
    Ok(back(id, "revoked"))
}

fn ask_offboard(desk: &Desk, viewer: &Viewer, id: Uuid, name: String, problem: String) -> Answer {
    let t = desk.texts;
    page(&ConfirmPage {
        t,
        c: viewer.common("overview"),
        id,
        action: format!("/tenants/{id}/offboard"),
        title: Texts::fill(t.act.offboard, &name),
        text: t.act.offboard_text,
        typed: name,
        problem,
        button: t.act.offboard_go,
    })
}

/// Before a tenant is off-boarded.
pub async fn before_offboard(
    State(desk): State<Arc<Desk>>,
    viewer: Viewer,
    Place(id): Place<Uuid>,
) -> Answer {
    may_act(&viewer)?;
    let name = name(&desk, id).await?;
    ask_offboard(&desk, &viewer, id, name, String::new())
}

/// What was typed to confirm.
#[derive(Deserialize)]
pub struct Confirmed {
    #[serde(default)]
    typed: String,
}

#[derive(Template)]
#[template(path = "operators/receipt.html")]
struct ReceiptPage {
    t: &'static Texts,
    c: Common,
    id: Uuid,
    receipt: String,
}

/// Off-boards a tenant.
pub async fn offboard(
    State(desk): State<Arc<Desk>>,
    Place(id): Place<Uuid>,
    order: Order<Confirmed>,
) -> Answer {
    let typed = &order.form.typed;
    match desk
        .operations()
        .offboard(&order.by, TenantId(id), typed)
        .await
    {
        Ok(receipt) => page(&ReceiptPage {
            t: desk.texts,
            c: order.viewer.common("overview"),
            id,
            receipt: receipt.to_string(),
        }),
        Err(e @ OperationError::NotConfirmed(_)) => {
            let name = name(&desk, id).await?;
            ask_offboard(&desk, &order.viewer, id, name, e.to_string())
        }
        Err(e) => Err(e.into()),
    }
}

/// What is exported.
#[derive(Deserialize)]
pub struct Export {
    #[serde(default)]
    tenant: String,
    format: Format,
}

/// In which form.
#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For spreadsheets.
    Csv,
    /// For programs.
    Jsonl,
}

/// A value of a CSV file. What a spreadsheet would take for a formula is made a text.
fn csv(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = text.replace('"', "\"\"");
    format!("\"{}{text}\"", if formula { "'" } else { "" })
}

fn csv_line(e: &AuditEntry) -> String {
    let texts = [
        e.id.to_string(),
        e.at.to_string(),
        csv(&e.actor_kind),
        csv(&e.actor),
        csv(&e.action),
        e.tenant.map(|t| t.to_string()).unwrap_or_default(),
        e.suite.map(|s| s.to_string()).unwrap_or_default(),
        csv(&e.detail),
    ];
    texts.join(",") + "\r\n"
}

/// The audit log as a file, newest first. That it was taken is entered first, so the file says so itself.
pub async fn export(State(desk): State<Arc<Desk>>, order: Order<Export>) -> Answer {
    let operations = desk.operations();
    let tenant = match order.form.tenant.as_str() {
        "" => None,
        id => Some(TenantId(
            Uuid::try_parse(id).map_err(|_| Failure::NotFound)?,
        )),
    };
    let (how, mut body) = match order.form.format {
        Format::Csv => (
            "as CSV",
            "entry,at,actor_kind,actor,action,tenant,suite,detail\r\n".to_owned(),
        ),
        Format::Jsonl => ("as JSON lines", String::new()),
    };
    let add = |entry: &AuditEntry| -> Result<(), Failure> {
        match order.form.format {
            Format::Csv => body.push_str(&csv_line(entry)),
            Format::Jsonl => {
                let line = serde_json::to_string(entry);
                body.push_str(&line.map_err(|e| Failure::Ours(e.to_string()))?);
                body.push('\n');
            }
        }
        if body.len() > MOST_BYTES {
            return Err(Failure::Refused(
                "the audit log is too long for one file; export it tenant by tenant".into(),
            ));
        }
        Ok(())
    };
    operations.export(&order.by, tenant, how, add).await?;
    Ok(match order.form.format {
        Format::Csv => download("audit.csv", "text/csv; charset=utf-8", body),
        Format::Jsonl => download("audit.jsonl", "application/jsonl; charset=utf-8", body),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_of_a_file_is_a_formula_or_ends_its_cell() {
        assert_eq!(csv("=1+1"), "\"'=1+1\"");
        assert_eq!(csv("a \"b\", c"), "\"a \"\"b\"\", c\"");
    }
}
