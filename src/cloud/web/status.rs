//! What a customer sees of his connection later, and what he can do.

use std::sync::Arc;

use axum::extract::{Path, State};
use serde::Deserialize;

use super::outcome::{Kind, Outcome};
use super::pages::{
    CoverageShown, DisconnectPage, Enrolment, HealthShown, ReceiptPage, SignInPage, StatusPage,
    SuiteShown, time,
};
use super::session::{Nothing, Posted, Visit, hash, token};
use super::texts::Texts;
use super::{Answer, Failure, Web, go, page, with_cookie};
use crate::cloud::admin;
use crate::cloud::onboarding::Trouble;
use crate::cloud::poller::TenantFigures;
use crate::cloud::store::{
    ConnectionKind, SignInPurpose, SuiteRow, TenantRow, TenantStatus, WebSessionRow,
};
use crate::microsoft::entra::SignIn;
use crate::model::{Health, HealthState, SuiteId, TenantId};
use crate::secret::{Secret, random_token};

/// The tenant a browser may see, and as whom: made by authentication, asked for by everything below.
struct TenantCtx {
    tenant: TenantRow,
    /// Signed in as the account that authorized, not by a link.
    signed_in: bool,
}

impl Web {
    async fn tenant_ctx(&self, visit: &Visit) -> Result<Option<TenantCtx>, Failure> {
        let Some((session, id)) = visit.session.as_ref().and_then(|s| Some((s, s.tenant?))) else {
            return Ok(None);
        };
        let tenant = self.store.tenant(id).await?;
        let Some(tenant) = tenant.filter(|t| t.status != TenantStatus::Gone) else {
            return Ok(None);
        };
        let connection = self.store.connection(id).await?;
        let signed_in = connection.is_some_and(|c| session.account == Some(c.account));
        Ok(Some(TenantCtx { tenant, signed_in }))
    }

    async fn must_see_tenant(&self, visit: &Visit) -> Result<TenantCtx, Failure> {
        self.tenant_ctx(visit)
            .await?
            .ok_or(Failure::Kind(Kind::Expired))
    }

    /// Makes a secret link to the status page; all earlier ones end.
    pub(super) async fn new_status_link(
        &self,
        visit: &Visit,
        tenant: TenantId,
    ) -> Result<String, Failure> {
        let secret = Secret::new(random_token());
        let now = self.clock.now();
        self.store
            .put_status_link(hash(&secret), tenant, true, &visit.actor(), now, None)
            .await?;
        Ok(self.link(&format!("/s/{}", secret.expose())))
    }

    /// Somebody has signed in to see a connection.
    pub(super) async fn signed_in_to_status(
        &self,
        visit: &mut Visit,
        sign_in: &SignIn<'_>,
        code: &str,
    ) -> Answer {
        let now = self.clock.now();
        let person = match self.onboardings.entra.redeem(sign_in, code).await {
            Ok(authorized) => authorized.person,
            Err(e) => {
                let outcome = Outcome::of_trouble(&Trouble::from(e), "", now);
                return self.tell(visit, outcome).await;
            }
        };
        // A tenant that is not connected and one that somebody else has connected get the same answer.
        let Some(tenant) = self.tenant_of(&person).await? else {
            return self
                .tell(visit, Outcome::plain(Kind::NotYours, "", now))
                .await;
        };
        let session = WebSessionRow {
            tenant: Some(tenant),
            account: Some(person.account),
            ..WebSessionRow::default()
        };
        let cookie = visit.begin_session(self, session).await?;
        Ok(with_cookie(go("/status"), &cookie))
    }

    async fn status_page(
        &self,
        visit: &Visit,
        ctx: TenantCtx,
        enrolment: Option<Enrolment>,
        link: Option<String>,
    ) -> Result<StatusPage, Failure> {
        let TenantCtx { tenant, signed_in } = ctx;
        let served = self.tenants.get(tenant.id).await?;
        let figures = served.as_ref().map(|t| t.figures());
        let suites = self.store.suites(Some(tenant.id)).await?;
        let connected = |suite: SuiteId| {
            let served = served.as_ref();
            served.is_some_and(|t| t.with_hub(|hub, _, _| hub.streams_of(suite)) > 0)
        };
        let connection = self.onboardings.connection(tenant.id).await?;
        let t = &self.texts.status;
        let (domain, authorized_by, authorized_at) = match &connection {
            Some((row, details)) => {
                let by = match (
                    details.authorized_by.as_str(),
                    details.authorized_as.as_str(),
                ) {
                    ("", name) | (name, "") => name.to_owned(),
                    (name, account) => format!("{name} ({account})"),
                };
                (row.domain.clone(), by, time(row.authorized_at))
            }
            None => (tenant.name.clone(), String::new(), String::new()),
        };
        Ok(StatusPage {
            c: self.common(Some(visit)),
            name: tenant.name.clone(),
            domain,
            tenant: tenant.id.to_string(),
            health: health(figures.as_ref(), self.texts),
            coverage: coverage(figures.as_ref(), self.texts),
            suites: suites
                .iter()
                .filter(|s| s.active)
                .map(|s| suite(s, connected(s.id), self.texts))
                .collect(),
            connection: match tenant.connection {
                ConnectionKind::Organisation => t.organisation,
                ConnectionKind::ServiceAccount => t.account,
            },
            authorized_by,
            authorized_at,
            by_link: !signed_in,
            now: time(self.clock.now()),
            enrolment,
            link,
        })
    }
}

fn health(figures: Option<&TenantFigures>, texts: &Texts) -> HealthShown {
    let t = &texts.status;
    let Some(figures) = figures else {
        return HealthShown {
            class: "bad",
            state: t.pending,
            since: String::new(),
            text: t.pending_text.to_owned(),
            cure: String::new(),
            code: String::new(),
            asks: false,
        };
    };
    let Health {
        state,
        cause,
        since,
    } = &figures.health;
    let (class, word) = match state {
        HealthState::Connected => ("good", t.connected),
        HealthState::Pending => ("", t.pending),
        HealthState::Degraded => ("warn", t.degraded),
        HealthState::NeedsReauthorization => ("bad", t.reauthorize),
        HealthState::NeedsAdministrator => ("bad", t.administrator),
        HealthState::Suspended | HealthState::Gone => ("bad", t.suspended),
    };
    let text = match (cause, state, figures.cadence) {
        (Some(cause), ..) => cause.text.clone(),
        (None, HealthState::Connected, Some(every)) if figures.coverage.watched > 0 => Texts::fill(
            t.connected_text,
            format_args!("{} s", every.as_millis().div_ceil(1000)),
        ),
        (None, HealthState::Connected, _) => t.connected_idle.to_owned(),
        (None, ..) => t.pending_text.to_owned(),
    };
    HealthShown {
        class,
        state: word,
        since: time(*since),
        text,
        cure: cause.as_ref().map(|c| c.remedy.clone()).unwrap_or_default(),
        code: cause.as_ref().map(|c| c.code.clone()).unwrap_or_default(),
        asks: matches!(
            state,
            HealthState::NeedsReauthorization | HealthState::NeedsAdministrator
        ),
    }
}

fn coverage(figures: Option<&TenantFigures>, texts: &Texts) -> CoverageShown {
    let t = &texts.status;
    let (watched, monitored, resolving) = figures.map_or((0, 0, 0), |f| {
        (
            f.coverage.watched,
            f.coverage.monitored,
            f.coverage.resolving,
        )
    });
    let text = match (watched, monitored) {
        (0, _) => t.coverage_none.to_owned(),
        (watched, monitored) if watched == monitored => Texts::fill(t.coverage_all, watched),
        (watched, monitored) => {
            Texts::fill(t.coverage_some, format_args!("{monitored} of {watched}"))
        }
    };
    CoverageShown {
        text,
        watched,
        resolving,
        uncovered: watched.saturating_sub(monitored).saturating_sub(resolving),
        permille: (monitored * 1000).checked_div(watched).unwrap_or(0),
    }
}

fn suite(row: &SuiteRow, connected: bool, texts: &Texts) -> SuiteShown {
    let t = &texts.status;
    SuiteShown {
        name: row.name.clone(),
        class: if connected { "on" } else { "off" },
        state: if connected { t.suite_on } else { t.suite_off },
        since: time(row.created_at),
    }
}

/// The status page, or the way to it.
pub async fn status(State(web): State<Arc<Web>>, visit: Visit) -> Answer {
    if let Some(ctx) = web.tenant_ctx(&visit).await? {
        return Ok(page(&web.status_page(&visit, ctx, None, None).await?));
    }
    let shown = page(&SignInPage {
        c: web.common(Some(&visit)),
    });
    Ok(web.remember(&visit, shown))
}

/// Where a form was sent, opened without one: after reloading, for example.
pub async fn back() -> Answer {
    Ok(go("/status"))
}

/// Somebody opens a secret link.
pub async fn by_link(
    State(web): State<Arc<Web>>,
    mut visit: Visit,
    Path(secret): Path<String>,
) -> Answer {
    let used = || Failure::Kind(Kind::Used);
    let secret = token(&secret).ok_or_else(used)?;
    let tenant = web
        .store
        .tenant_of_link(hash(&secret), web.clock.now())
        .await?;
    let session = WebSessionRow {
        tenant: Some(tenant.ok_or_else(used)?),
        ..WebSessionRow::default()
    };
    let cookie = visit.begin_session(&web, session).await?;
    Ok(with_cookie(go("/status"), &cookie))
}

/// To Microsoft, to see a connection.
pub async fn sign_in(
    State(web): State<Arc<Web>>,
    Posted { mut visit, .. }: Posted<Nothing>,
) -> Answer {
    // What goes wrong is told by the session.
    let cookie = match visit.session {
        Some(_) => None,
        None => Some(visit.begin_session(&web, WebSessionRow::default()).await?),
    };
    let response = web
        .send_to_microsoft(&visit, SignInPurpose::Status, None)
        .await?;
    Ok(match cookie {
        Some(cookie) => with_cookie(response, &cookie),
        None => response,
    })
}

/// Ends the session.
pub async fn sign_out(
    State(web): State<Arc<Web>>,
    Posted { visit, .. }: Posted<Nothing>,
) -> Answer {
    web.store.end_web_session(visit.hash()).await?;
    Ok(go("/status"))
}

/// A code for another suite.
pub async fn add_suite(
    State(web): State<Arc<Web>>,
    Posted { visit, .. }: Posted<Nothing>,
) -> Answer {
    let ctx = web.must_see_tenant(&visit).await?;
    let enrolment = web.enrolment(&visit, ctx.tenant.id).await?;
    tracing::info!(tenant.id = %ctx.tenant.id, "an enrolment code was made on the status page");
    let shown = web.status_page(&visit, ctx, Some(enrolment), None).await?;
    Ok(page(&shown))
}

/// A new secret link.
pub async fn new_link(
    State(web): State<Arc<Web>>,
    Posted { visit, .. }: Posted<Nothing>,
) -> Answer {
    let ctx = web.must_see_tenant(&visit).await?;
    let link = web.new_status_link(&visit, ctx.tenant.id).await?;
    // Who came by an earlier link has no more to see; but for who asks for the new one.
    web.store
        .end_sessions_by_link(ctx.tenant.id, visit.hash())
        .await?;
    let shown = web.status_page(&visit, ctx, None, Some(link)).await?;
    Ok(page(&shown))
}

/// Authorizes anew: the same steps, for exactly this tenant.
pub async fn again(
    State(web): State<Arc<Web>>,
    Posted { mut visit, .. }: Posted<Nothing>,
) -> Answer {
    let ctx = web.must_see_tenant(&visit).await?;
    web.make_room().await?;
    let id = web.onboardings.begin_again(&ctx.tenant).await?;
    let session = WebSessionRow {
        onboarding: Some(id),
        outcome: None,
        ..visit.session.clone().unwrap_or_default()
    };
    let cookie = visit.begin_session(&web, session).await?;
    // The kind is known; choosing it makes the link that can be forwarded.
    let link = hash(&super::onboarding::forward_secret(&visit, id));
    web.store
        .choose_connection(id, ctx.tenant.connection, Some(link))
        .await?;
    Ok(with_cookie(go("/authorize"), &cookie))
}

/// Asks once more.
pub async fn before_disconnect(State(web): State<Arc<Web>>, visit: Visit) -> Answer {
    let ctx = web.must_see_tenant(&visit).await?;
    Ok(page(&web.disconnect_page(&visit, &ctx, false).await?))
}

#[derive(Deserialize)]
pub struct Confirmation {
    #[serde(default)]
    typed: String,
}

impl Web {
    async fn disconnect_page(
        &self,
        visit: &Visit,
        ctx: &TenantCtx,
        wrong: bool,
    ) -> Result<DisconnectPage, Failure> {
        let suites = self.store.suites(Some(ctx.tenant.id)).await?;
        Ok(DisconnectPage {
            c: self.common(Some(visit)),
            name: ctx.tenant.name.clone(),
            domain: self.confirmed_by(&ctx.tenant).await?,
            suites: suites.iter().filter(|s| s.active).count(),
            allowed: ctx.signed_in,
            wrong,
        })
    }

    /// What has to be typed to disconnect.
    async fn confirmed_by(&self, tenant: &TenantRow) -> Result<String, Failure> {
        let connection = self.store.connection(tenant.id).await?;
        Ok(connection.map_or_else(|| tenant.name.clone(), |c| c.domain))
    }
}

/// Disconnects for good. A link is not enough for that.
pub async fn disconnect(
    State(web): State<Arc<Web>>,
    Posted { visit, form }: Posted<Confirmation>,
) -> Answer {
    let ctx = web.must_see_tenant(&visit).await?;
    let expected = web.confirmed_by(&ctx.tenant).await?;
    let typed = form.typed.trim().eq_ignore_ascii_case(&expected);
    if !ctx.signed_in || !typed {
        return Ok(page(&web.disconnect_page(&visit, &ctx, true).await?));
    }
    let receipt = admin::offboard(&web.store, &web.clock, &visit.actor(), ctx.tenant.id).await?;
    tracing::info!(tenant.id = %ctx.tenant.id, "disconnected by the customer");
    let t = &web.texts.disconnect;
    let facts = receipt.map(|receipt| {
        let data_keys: Vec<_> = receipt.data_keys.iter().map(ToString::to_string).collect();
        vec![
            (t.receipt, receipt.number),
            (t.receipt_time, time(receipt.at)),
            (t.receipt_tenant, receipt.tenant.to_string()),
            (t.receipt_keys, data_keys.join(", ")),
            (t.receipt_tokens, receipt.refresh_tokens.to_string()),
            (t.receipt_suites, receipt.suites.to_string()),
            (t.receipt_codes, receipt.codes.to_string()),
        ]
    });
    Ok(page(&ReceiptPage {
        c: web.common(Some(&visit)),
        name: ctx.tenant.name,
        facts: facts.unwrap_or_default(),
    }))
}
