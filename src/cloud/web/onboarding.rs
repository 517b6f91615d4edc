//! From the form to the enrolment code.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::response::Response;
use serde::Deserialize;
use uuid::Uuid;

use super::outcome::{Kind, Outcome, Step};
use super::pages::{
    AuthorizePage, CompletePage, ConnectionPage, Enrolment, OutcomePage, Shown, StartPage, time,
};
use super::session::{self, Nothing, Posted, SIGN_IN_LIFE, Visit, derive, hash, token};
use super::texts::{ENGLISH, Texts};
use super::{Answer, Failure, Web, go, page, with_cookie};
use crate::cloud::admin::{DEFAULT_CODE_LIFE, invite_suite};
use crate::cloud::onboarding::{Trouble, Wish};
use crate::cloud::store::{
    ConnectionKind, OnboardingRow, OnboardingStep, SignInPurpose, SignInRow, WebSessionRow,
};
use crate::cloud::tokens::chain;
use crate::microsoft::entra::{Ask, SignIn, SignedIn, refused_in_browser};
use crate::model::{TenantId, Timestamp};
use crate::secret::{Secret, random_token, sha256};

/// Most onboardings remembered at the same time, over all customers: more are a flood.
const MAX_ONBOARDINGS: i64 = 20_000;

/// In a flood, those that nobody has taken further for so long give way to new ones.
const KEPT_IN_A_FLOOD: Duration = Duration::from_hours(1);

/// So many give way at a time.
const GIVE_WAY: u32 = 100;

/// Most enrolment codes of a tenant that are not used yet.
const MAX_CODES: i64 = 100;

/// The form.
pub async fn start(State(web): State<Arc<Web>>, visit: Visit) -> Answer {
    let shown = page(&StartPage::new(
        web.common(Some(&visit)),
        Wish::default(),
        &[],
        None,
    ));
    Ok(web.remember(&visit, shown))
}

/// The form, sent.
pub async fn begin(
    State(web): State<Arc<Web>>,
    Posted { mut visit, form }: Posted<Wish>,
) -> Answer {
    let wish = form.tidied();
    let mut flaws = wish.flaws();
    let mut trouble = None;
    let mut tenant = None;
    if !flaws.iter().any(|(field, _)| *field == "tenant") {
        match web.onboardings.find_tenant(&wish.tenant).await {
            Ok(Ok(found)) => tenant = Some(found),
            Ok(Err(flaw)) => flaws.push(("tenant", flaw)),
            Err(e) => {
                tracing::warn!(error = %chain(&e), "an organisation could not be looked up");
                trouble = Some(web.texts.flaws.microsoft_down);
            }
        }
    }
    let (Some(tenant), true) = (tenant, flaws.is_empty()) else {
        let c = web.common(Some(&visit));
        return Ok(page(&StartPage::new(c, wish, &flaws, trouble)));
    };
    web.make_room().await?;
    let id = web.onboardings.begin(&wish, tenant).await?;
    let session = WebSessionRow {
        onboarding: Some(id),
        ..WebSessionRow::default()
    };
    let cookie = visit.begin_session(&web, session).await?;
    Ok(with_cookie(go("/connection"), &cookie))
}

impl Web {
    /// Gives a browser its cookie, if it has none.
    pub(super) fn remember(&self, visit: &Visit, response: Response) -> Response {
        if visit.is_new {
            with_cookie(response, &self.cookies.for_session(&visit.secret))
        } else {
            response
        }
    }

    /// Sees that there is room for another onboarding.
    pub(super) async fn make_room(&self) -> Result<(), Failure> {
        if self.store.onboardings().await? < MAX_ONBOARDINGS {
            return Ok(());
        }
        let begun_by = self.clock.now().minus(KEPT_IN_A_FLOOD);
        let forgotten = self
            .store
            .forget_oldest_onboardings(begun_by, GIVE_WAY)
            .await?;
        tracing::error!(
            forgotten,
            "too many onboardings are remembered: the oldest that nobody has taken further give way"
        );
        if forgotten == 0 {
            return Err(Failure::Kind(Kind::TooMany));
        }
        Ok(())
    }

    /// The onboarding this browser works on.
    async fn onboarding(&self, visit: &Visit) -> Result<OnboardingRow, Failure> {
        let expired = Failure::Kind(Kind::Expired);
        let Some(id) = visit.session.as_ref().and_then(|s| s.onboarding) else {
            return Err(expired);
        };
        let row = self.store.onboarding(id, self.clock.now()).await?;
        row.ok_or(expired)
    }
}

impl Visit {
    fn told(&self) -> Option<Outcome> {
        let json = self.session.as_ref()?.outcome.as_deref()?;
        serde_json::from_str(json).ok()
    }

    /// Whether the last thing told was to ask an administrator.
    fn was_told_to_forward(&self) -> bool {
        let told = self.told();
        told.is_some_and(|o| o.kind.row(&ENGLISH).steps.first() == Some(&Step::Forward))
    }
}

/// The secret of the link to forward: of this browser and this onboarding, and of no other.
pub(super) fn forward_secret(visit: &Visit, id: Uuid) -> Secret {
    derive(&visit.secret, &format!("forward {id}"))
}

/// The choice of the connection.
pub async fn choice(State(web): State<Arc<Web>>, visit: Visit) -> Answer {
    let row = web.onboarding(&visit).await?;
    if row.step == OnboardingStep::Completed {
        return Ok(go("/complete"));
    }
    Ok(page(&web.choice_page(&visit, &row, false)))
}

#[derive(Deserialize)]
pub struct Choice {
    #[serde(default)]
    connection: String,
}

/// The choice, sent.
pub async fn choose(State(web): State<Arc<Web>>, Posted { visit, form }: Posted<Choice>) -> Answer {
    let row = web.onboarding(&visit).await?;
    let Some(kind) = ConnectionKind::from_word(&form.connection) else {
        return Ok(page(&web.choice_page(&visit, &row, true)));
    };
    let link = hash(&forward_secret(&visit, row.id));
    if web
        .store
        .choose_connection(row.id, kind, Some(link))
        .await?
    {
        Ok(go("/authorize"))
    } else {
        Ok(go("/complete"))
    }
}

impl Web {
    fn choice_page(&self, visit: &Visit, row: &OnboardingRow, nothing: bool) -> ConnectionPage {
        ConnectionPage {
            c: self.common(Some(visit)),
            organisation: row.connection != Some(ConnectionKind::ServiceAccount) && !nothing,
            account: row.connection == Some(ConnectionKind::ServiceAccount),
            nothing,
        }
    }
}

/// The page of the blue button. While a fresh consent spreads at Microsoft, every visit tries the connection again.
pub async fn authorize(State(web): State<Arc<Web>>, mut visit: Visit) -> Answer {
    let mut row = web.onboarding(&visit).await?;
    let Some(kind) = row.connection else {
        return Ok(go("/connection"));
    };
    let ours = visit.session.as_ref().and_then(|s| s.account);
    let mine = row.account.is_some() && row.account == ours;
    if row.step == OnboardingStep::SignedIn && mine && web.limits.tries.check_key(&row.id).is_ok() {
        match web.onboardings.try_again(&row).await {
            Ok(()) => row.step = OnboardingStep::Authorized,
            Err(Trouble::NotThereYet(e)) => {
                tracing::info!(tenant.id = %row.tenant, error = %chain(&e), "a consent has not spread yet");
            }
            Err(trouble) => return web.refuse(&mut visit, &row, &trouble).await,
        }
    }
    let stage = match row.step {
        OnboardingStep::Completed => return Ok(go("/complete")),
        OnboardingStep::Open => "open",
        _ if !mine => "elsewhere",
        OnboardingStep::SignedIn => "waiting",
        OnboardingStep::Authorized => "authorized",
    };
    let details = web.onboardings.details(&row)?;
    // Whoever came by the forwarded link is not the one who asked: there is no link to forward any further.
    let asked_here = row.link_hash_is(&forward_secret(&visit, row.id));
    let somebody_else = !asked_here && !row.reconnects && !mine;
    let asker = format!(
        "{} {} ({}), {}",
        details.first_name, details.last_name, details.email, details.company
    );
    let name = match (mine, somebody_else, row.reconnects) {
        (true, ..) if !details.authorized_by.is_empty() => details.authorized_by.clone(),
        (_, false, false) => format!("{} {}", details.first_name, details.last_name),
        _ => String::new(),
    };
    let until = row
        .signed_in_at
        .map(|at| time(at.plus(web.onboardings.propagation)))
        .unwrap_or_default();
    let forward = if asked_here {
        web.text_to_forward(&visit, &row, &details.first_name, &details.last_name)
    } else {
        String::new()
    };
    Ok(page(&AuthorizePage {
        c: web.common(Some(&visit)),
        name,
        domain: row.domain.clone(),
        reconnects: row.reconnects,
        asked_by: somebody_else.then_some(asker),
        client_id: web.client_id.to_string(),
        organisation: kind == ConnectionKind::Organisation,
        stage,
        until,
        forward,
        others: !details.administrator.is_empty() || visit.was_told_to_forward(),
    }))
}

impl Web {
    fn text_to_forward(
        &self,
        visit: &Visit,
        row: &OnboardingRow,
        first: &str,
        last: &str,
    ) -> String {
        let t = &self.texts.authorize;
        let role = match row.connection {
            Some(ConnectionKind::ServiceAccount) => t.role_account,
            _ => t.role_organisation,
        };
        let secret = forward_secret(visit, row.id);
        t.forward_mail
            .replace("{domain}", &row.domain)
            .replace("{link}", &self.link(&format!("/for/{}", secret.expose())))
            .replace("{role}", role)
            .replace("{name}", format!("{first} {last}").trim())
    }

    /// Tells why an onboarding does not go on; the button is blue again.
    async fn refuse(&self, visit: &mut Visit, row: &OnboardingRow, trouble: &Trouble) -> Answer {
        tracing::warn!(tenant.id = %row.tenant, error = %chain(trouble), "an authorization did not succeed");
        if let Some(kind) = row.connection
            && !matches!(trouble, Trouble::MovedOn)
        {
            self.store.choose_connection(row.id, kind, None).await?;
        }
        let outcome = Outcome::of_trouble(trouble, &row.domain, self.clock.now());
        self.tell(visit, outcome).await
    }

    /// Sends a browser to Microsoft. Its cookie holds what makes the answer worth something.
    pub(super) async fn send_to_microsoft(
        &self,
        visit: &Visit,
        purpose: SignInPurpose,
        row: Option<&OnboardingRow>,
    ) -> Answer {
        let (secret, state) = (Secret::new(random_token()), random_token());
        let sign_in = SignInRow {
            purpose,
            cookie_hash: hash(&secret),
            session_hash: visit.hash(),
            onboarding: row.map(|row| row.id),
            expires_at: self.clock.now().plus(SIGN_IN_LIFE),
        };
        self.store
            .put_sign_in(sha256(state.as_bytes()), &sign_in)
            .await?;
        let redirect = &self.onboardings.redirect_uri;
        let url = if let (SignInPurpose::Consent, Some(row)) = (purpose, row) {
            let entra = &self.onboardings.entra;
            entra.admin_consent_url(row.tenant, redirect, &state)
        } else {
            let secrets = SignInSecrets::of(&secret);
            let sign_in = secrets.sign_in(ask(row), redirect);
            // After a consent the administrator is signed in: the choice was made a moment ago.
            let choose = ask(row) == Ask::ServiceAccount || purpose == SignInPurpose::Status;
            let entra = &self.onboardings.entra;
            entra.sign_in_url(&sign_in, &state, choose, None)
        };
        Ok(with_cookie(
            go(url.as_str()),
            &self.cookies.for_sign_in(&secret),
        ))
    }
}

fn ask(row: Option<&OnboardingRow>) -> Ask {
    match row.and_then(|row| row.connection) {
        Some(ConnectionKind::ServiceAccount) => Ask::ServiceAccount,
        _ => Ask::Identity,
    }
}

struct SignInSecrets {
    nonce: Secret,
    verifier: Secret,
}

impl SignInSecrets {
    fn of(cookie: &Secret) -> Self {
        Self {
            nonce: derive(cookie, "nonce"),
            verifier: derive(cookie, "verifier"),
        }
    }

    fn sign_in<'a>(&'a self, ask: Ask, redirect_uri: &'a url::Url) -> SignIn<'a> {
        SignIn {
            ask,
            redirect_uri,
            nonce: &self.nonce,
            verifier: &self.verifier,
        }
    }
}

/// The blue button.
pub async fn send_away(
    State(web): State<Arc<Web>>,
    Posted { visit, .. }: Posted<Nothing>,
) -> Answer {
    let row = web.onboarding(&visit).await?;
    let purpose = match row.connection {
        None => return Ok(go("/connection")),
        Some(_) if row.step == OnboardingStep::Completed => return Ok(go("/complete")),
        Some(ConnectionKind::Organisation) => SignInPurpose::Consent,
        Some(ConnectionKind::ServiceAccount) => SignInPurpose::Connect,
    };
    web.send_to_microsoft(&visit, purpose, Some(&row)).await
}

/// What Microsoft sends back. All of it comes through the browser: nothing is believed but the code, once it is redeemed.
#[derive(Deserialize, Default)]
#[serde(default)]
pub struct Returned {
    state: String,
    code: String,
    error: String,
    error_description: String,
    tenant: String,
    admin_consent: String,
}

/// A browser comes back from Microsoft.
pub async fn callback(
    State(web): State<Arc<Web>>,
    mut visit: Visit,
    Query(returned): Query<Returned>,
) -> Answer {
    came_back(&web, &mut visit, &returned).await
}

async fn came_back(web: &Arc<Web>, visit: &mut Visit, returned: &Returned) -> Answer {
    let expired = || Failure::Kind(Kind::Expired);
    let state = token(&returned.state).ok_or_else(expired)?;
    let cookie = visit.sign_in.take().ok_or_else(expired)?;
    let sign_in = web.store.take_sign_in(hash(&state)).await?;
    let sign_in = sign_in.ok_or_else(expired)?;
    let ours = sign_in.cookie_hash == hash(&cookie)
        && sign_in.session_hash == visit.hash()
        && sign_in.expires_at > web.clock.now();
    if !ours {
        tracing::warn!("somebody came back with a sign-in of another browser, or too late");
        return Err(expired());
    }
    let row = match sign_in.onboarding {
        None => None,
        Some(id) => {
            let row = web.store.onboarding(id, web.clock.now()).await?;
            Some(row.ok_or_else(expired)?)
        }
    };
    if !returned.error.is_empty() {
        let error = refused_in_browser(&returned.error, &returned.error_description);
        tracing::warn!(error = %error, "Microsoft refused in the browser");
        let outcome = Outcome::of_microsoft(&error, web.clock.now());
        let response = web.tell(visit, outcome).await?;
        return Ok(with_cookie(response, &web.cookies.end_sign_in()));
    }
    let secrets = SignInSecrets::of(&cookie);
    let response = match (sign_in.purpose, row) {
        (SignInPurpose::Consent, Some(row)) => {
            // Said by the browser: good for telling a person of a slip, not for binding anything.
            let elsewhere = returned
                .tenant
                .parse::<TenantId>()
                .is_ok_and(|tenant| tenant != row.tenant);
            if elsewhere || !returned.admin_consent.eq_ignore_ascii_case("true") {
                let trouble = if elsewhere {
                    Trouble::WrongOrganisation
                } else {
                    Trouble::NotAdministrator
                };
                return web.refuse(visit, &row, &trouble).await;
            }
            return web
                .send_to_microsoft(visit, SignInPurpose::Connect, Some(&row))
                .await;
        }
        (SignInPurpose::Connect, Some(row)) => {
            let sign_in = secrets.sign_in(ask(Some(&row)), &web.onboardings.redirect_uri);
            authorized(web, visit, &row, &sign_in, &returned.code).await?
        }
        (SignInPurpose::Status, _) => {
            let sign_in = secrets.sign_in(Ask::Identity, &web.onboardings.redirect_uri);
            web.signed_in_to_status(visit, &sign_in, &returned.code)
                .await?
        }
        _ => return Err(expired()),
    };
    Ok(with_cookie(response, &web.cookies.end_sign_in()))
}

/// Somebody has signed in to authorize.
async fn authorized(
    web: &Arc<Web>,
    visit: &mut Visit,
    row: &OnboardingRow,
    sign_in: &SignIn<'_>,
    code: &str,
) -> Answer {
    let (person, works) = match web.onboardings.signed_in(row, sign_in, code).await {
        Ok(signed_in) => signed_in,
        Err(trouble) => return web.refuse(visit, row, &trouble).await,
    };
    let before = visit.session.clone().unwrap_or_default();
    let (tenant, created_at) = match &works {
        Err(Trouble::AlreadyConnected) => (web.tenant_of(&person).await?, Timestamp::default()),
        _ => (before.tenant, before.created_at),
    };
    let session = WebSessionRow {
        onboarding: Some(row.id),
        tenant,
        account: Some(person.account),
        created_at,
        ..WebSessionRow::default()
    };
    let cookie = visit.begin_session(web, session).await?;
    let response = match works {
        Ok(()) | Err(Trouble::NotThereYet(_)) => go("/authorize"),
        Err(trouble) => web.refuse(visit, row, &trouble).await?,
    };
    Ok(with_cookie(response, &cookie))
}

impl Web {
    /// The tenant whose connection this very account has authorized.
    pub(super) async fn tenant_of(&self, person: &SignedIn) -> Result<Option<TenantId>, Failure> {
        let connection = self.store.connection(person.tenant).await?;
        Ok(connection
            .filter(|c| c.account == person.account)
            .map(|_| person.tenant))
    }

    /// An enrolment code for a suite, as shown once.
    pub(super) async fn enrolment(
        &self,
        visit: &Visit,
        tenant: TenantId,
    ) -> Result<Enrolment, Failure> {
        let open = self.store.open_enrolment_codes(tenant, self.clock.now());
        if open.await? >= MAX_CODES {
            return Err(Failure::Kind(Kind::TooMany));
        }
        let invited = invite_suite(
            &self.store,
            &self.clock,
            &visit.actor(),
            tenant,
            DEFAULT_CODE_LIFE,
        )
        .await?;
        let (code, until) = invited.ok_or(Failure::Kind(Kind::Expired))?;
        let url = self.suites_url.as_str().trim_end_matches('/');
        Ok(Enrolment {
            until: time(until),
            command: format!("presence-agent enroll --cloud {url} --name \"Reception\""),
            ini: format!(
                "[PresenceCloud]\nAddress={url}\nEnrolmentCode={}\nSuiteName=Reception\n",
                code.expose()
            ),
            code: code.expose().to_owned(),
        })
    }
}

/// The green button.
pub async fn complete(
    State(web): State<Arc<Web>>,
    Posted { mut visit, .. }: Posted<Nothing>,
) -> Answer {
    let row = web.onboarding(&visit).await?;
    let account = visit.session.as_ref().and_then(|s| s.account);
    let Some(account) = account.filter(|_| row.step != OnboardingStep::Completed) else {
        return Ok(go("/complete"));
    };
    let details = web.onboardings.details(&row)?;
    match web.onboardings.complete(&row, account).await {
        Ok(()) => {}
        Err(Trouble::MovedOn) => return Ok(go("/complete")),
        Err(trouble @ Trouble::AlreadyConnected) => {
            return web.refuse(&mut visit, &row, &trouble).await;
        }
        Err(trouble) => return Err(trouble.into()),
    }
    let session = WebSessionRow {
        onboarding: Some(row.id),
        tenant: Some(row.tenant),
        account: Some(account),
        ..WebSessionRow::default()
    };
    let cookie = visit.begin_session(&web, session).await?;
    let t = &web.texts.complete;
    let shown = if row.reconnects {
        CompletePage {
            title: t.again_title,
            lead: Texts::fill(t.again_lead, &row.domain),
            step: false,
            enrolment: None,
            link: None,
            c: web.common(Some(&visit)),
        }
    } else {
        CompletePage {
            title: t.title,
            lead: Texts::fill(t.lead, &details.company),
            step: true,
            enrolment: Some(web.enrolment(&visit, row.tenant).await?),
            link: Some(web.new_status_link(&visit, row.tenant).await?),
            c: web.common(Some(&visit)),
        }
    };
    Ok(with_cookie(page(&shown), &cookie))
}

/// The end, looked at again: the code was shown once.
pub async fn completed(State(web): State<Arc<Web>>, visit: Visit) -> Answer {
    let row = web.onboarding(&visit).await?;
    if row.step != OnboardingStep::Completed {
        return Ok(go("/authorize"));
    }
    let t = &web.texts.complete;
    Ok(page(&CompletePage {
        c: web.common(Some(&visit)),
        title: t.already_title,
        lead: t.already_text.to_owned(),
        step: false,
        enrolment: None,
        link: None,
    }))
}

/// What happened, on a page of its own.
pub async fn outcome(State(web): State<Arc<Web>>, visit: Visit) -> Answer {
    let outcome = visit.told().ok_or(Failure::Kind(Kind::Expired))?;
    Ok(page(&OutcomePage {
        o: Shown::new(&outcome, web.texts),
        c: web.common(Some(&visit)),
    }))
}

/// An administrator opens the link that was forwarded to him.
pub async fn forwarded(
    State(web): State<Arc<Web>>,
    mut visit: Visit,
    Path(secret): Path<String>,
) -> Answer {
    let used = || Failure::Kind(Kind::Used);
    let secret = token(&secret).ok_or_else(used)?;
    let row = web
        .store
        .onboarding_by_link(session::hash(&secret), web.clock.now());
    let row = row.await?.ok_or_else(used)?;
    if row.step == OnboardingStep::Completed {
        return Err(used());
    }
    let session = WebSessionRow {
        onboarding: Some(row.id),
        ..WebSessionRow::default()
    };
    let cookie = visit.begin_session(&web, session).await?;
    Ok(with_cookie(go("/authorize"), &cookie))
}
