//! Signing in and consenting in a browser. `entra-oauth.md` §2 and §6.

use std::fmt::Write as _;
use std::sync::Arc;

use url::{Url, form_urlencoded};
use uuid::Uuid;

use super::aadsts::Refusal;
use super::token::{PERSONAL, code_expiry, requested_scopes, standing};
use super::{Authority, Call, client_id, pages};
use crate::model::TenantId;
use crate::secret::random_token;
use crate::simulator::answer::Answer;
use crate::simulator::directory::{Entry, seeded_uuid};
use crate::simulator::faults::Fault;
use crate::simulator::options::PersonalAccounts;
use crate::simulator::tenant::{Cell, merge};
use crate::simulator::world::{Code, Microsoft, SignedIn};

/// How many accounts of a tenant the page offers; others can be typed.
const OFFERED: usize = 6;

/// What an application asks for with `.default`: what our registration names.
const REGISTERED: [&str; 2] = ["Presence.Read.All", "User.ReadBasic.All"];

/// Where personal accounts of this simulation live.
const PERSONAL_DOMAINS: [&str; 4] = ["outlook.com", "hotmail.com", "live.com", "outlook.example"];

/// What comes after a page.
enum Step {
    /// Back to the application with these fields.
    Back(Vec<(String, String)>),
    /// Another page.
    Page(String),
}

impl Microsoft {
    /// The sign-in page, and its form sent back.
    pub(super) fn authorize(&self, call: &Call, faults: &[Fault]) -> Answer {
        let (client, back) = match self.check_client(call) {
            Ok(checked) => checked,
            Err(refusal) => return self.on_page(call, &refusal),
        };
        let injected = faults.iter().find_map(|fault| match fault {
            Fault::Aadsts { code, .. } => Some(Refusal::new(*code)),
            _ => None,
        });
        if let Some(refusal) = injected {
            // Where to go back to is what is wrong. `entra-oauth.md` §2.
            if matches!(refusal.code, 50_011 | 70_004 | 900_971) {
                return self.on_page(call, &refusal);
            }
            return self.back_with_refusal(call, &back, &refusal);
        }
        if call.field("response_type") != Some("code") {
            return self.back_with_refusal(call, &back, &Refusal::new(70_005));
        }
        if call.field("prompt") == Some("none") {
            let mut refusal = Refusal::new(50_058);
            refusal.detail =
                Some("A silent sign-in request was sent but no user is signed in.".into());
            return self.back_with_refusal(call, &back, &refusal);
        }
        let method = call.field("code_challenge_method");
        if call.field("code_challenge").is_some() && method != Some("S256") {
            let refusal = Refusal::because(
                50_147,
                "Invalid size of Code_Challenge parameter or unsupported method; use S256.",
            );
            return self.back_with_refusal(call, &back, &refusal);
        }
        let scopes = call.field("scope").unwrap_or_default();
        let scopes = match requested_scopes(scopes, &call.base) {
            Ok(scopes) if !scopes.is_empty() => scopes,
            Ok(_) => return self.back_with_refusal(call, &back, &Refusal::new(70_011)),
            Err(refusal) => return self.back_with_refusal(call, &back, &refusal),
        };
        match call.field("sim_decision") {
            None => Answer::html(200, self.sign_in_page(call, &scopes)),
            Some("accept") => match self.sign_in(call, client, &back, scopes) {
                Ok(Step::Back(fields)) => give_back(call, &back, fields),
                Ok(Step::Page(page)) => Answer::html(200, page),
                Err(refusal) if self.inner.switches().refusals_come_back => {
                    self.back_with_refusal(call, &back, &refusal)
                }
                Err(refusal) => self.on_page(call, &refusal),
            },
            Some("return") => self.back_with_refusal(call, &back, &Refusal::new(90_094)),
            Some(_) => self.back_with_refusal(call, &back, &Refusal::new(65_004)),
        }
    }

    /// The application and where to go back to, if it may.
    fn check_client(&self, call: &Call) -> Result<(Uuid, String), Refusal> {
        let named = call.field("client_id").unwrap_or_default();
        let app = client_id(named)
            .and_then(|id| self.inner.state().apps.get(&id).cloned())
            .ok_or_else(|| {
                Refusal::because(
                    700_016,
                    format!(
                        "Application with identifier '{named}' was not found in the directory."
                    ),
                )
            })?;
        let back = call
            .field("redirect_uri")
            .ok_or_else(|| Refusal::because(900_971, "No reply address provided."))?;
        if !app.registration.redirect_uris.iter().any(|uri| uri == back) {
            return Err(Refusal::because(
                50_011,
                format!(
                    "The redirect URI '{back}' specified in the request does not match the redirect URIs configured for the application '{named}'."
                ),
            ));
        }
        Ok((app.registration.client_id, back.to_owned()))
    }

    /// Signs the chosen account in and consents.
    fn sign_in(
        &self,
        call: &Call,
        client: Uuid,
        back: &str,
        scopes: Vec<String>,
    ) -> Result<Step, Refusal> {
        let upn = chosen_account(call);
        let now = self.inner.clock.now();
        let signed_in = SignedIn {
            at: now,
            mfa: call.field("sim_mfa") == Some("passed"),
        };
        let Some((home, entry)) = self.account(call, upn) else {
            if !is_personal(upn) {
                return Err(nobody(upn));
            }
            self.personal_account(call, upn)?;
            let id = seeded_uuid(&mut fastrand::Rng::with_seed(
                upn.bytes()
                    .fold(1, |h: u64, b| h.rotate_left(7) ^ u64::from(b)),
            ));
            let whose = (TenantId(PERSONAL), id, Some(upn.to_owned()));
            return Ok(self.code_for(call, client, back, scopes, whose, signed_in));
        };
        match standing(&home, &entry, client, signed_in, now) {
            Err(refusal) if refusal.code == 50_076 => {
                return second_factor(call, "oauth2/v2.0/authorize", upn);
            }
            standing => standing?,
        }
        let allowed = home.consent(client).is_some_and(|consent| {
            let mut needed = scopes.iter().filter(|s| s.ends_with(".All"));
            needed.all(|s| consent.delegated_to(entry.id, s))
        });
        if !allowed && home.rules().no_user_consent && !entry.administrator {
            return Ok(Step::Page(approval_page(call, "oauth2/v2.0/authorize")));
        }
        home.extend_consent(client, now, |consent| {
            let asked = scopes.iter().map(String::as_str);
            if entry.administrator && call.field("sim_for_all").is_some() {
                merge(&mut consent.delegated, asked.clone());
            }
            merge(consent.people.entry(entry.id).or_default(), asked);
        });
        let whose = (home.id, entry.id, None);
        Ok(self.code_for(call, client, back, scopes, whose, signed_in))
    }

    fn code_for(
        &self,
        call: &Call,
        client: Uuid,
        back: &str,
        scopes: Vec<String>,
        (tenant, person, personal): (TenantId, Uuid, Option<String>),
        signed_in: SignedIn,
    ) -> Step {
        let code = format!("1.{}", random_token());
        self.inner.state().codes.insert(
            code.clone(),
            Code {
                client,
                authority: call.name.clone(),
                tenant,
                person,
                redirect_uri: back.to_owned(),
                scopes,
                nonce: call.field("nonce").map(str::to_owned),
                challenge: call.field("code_challenge").map(str::to_owned),
                signed_in,
                personal,
                expires: code_expiry(signed_in.at),
                used: false,
            },
        );
        let mut fields = vec![("code".to_owned(), code)];
        if self.inner.switches().session_state {
            fields.push(("session_state".to_owned(), Uuid::new_v4().to_string()));
        }
        Step::Back(fields)
    }

    /// Whether a personal account may go on.
    fn personal_account(&self, call: &Call, upn: &str) -> Result<(), Refusal> {
        match (&call.authority, self.inner.switches().personal_accounts) {
            (Authority::Any, PersonalAccounts::IdToken) => Ok(()),
            (Authority::Any, PersonalAccounts::Refused) => Err(Refusal::because(
                50_020,
                "You can't sign in here with a personal account. Use your work or school account instead.",
            )),
            (Authority::One(home), _) => Err(Refusal::because(
                50_020,
                format!(
                    "User account '{upn}' from identity provider 'live.com' does not exist in tenant '{}' and cannot access the application in that tenant.",
                    home.name
                ),
            )),
        }
    }

    /// The tenants whose people can sign in here.
    fn homes(&self, call: &Call) -> Vec<Arc<Cell>> {
        let homes = match &call.authority {
            Authority::One(home) => vec![Arc::clone(home)],
            Authority::Any => self.inner.cells(),
        };
        homes
            .into_iter()
            .filter(|home| !home.rules().deleted)
            .collect()
    }

    /// The account somebody means: by its UPN, or a guest by the address at home.
    fn account(&self, call: &Call, upn: &str) -> Option<(Arc<Cell>, Entry)> {
        let homes = self.homes(call);
        let by_upn = homes.iter().find_map(|home| {
            let entry = home.directory().by_upn(upn).cloned()?;
            Some((Arc::clone(home), entry))
        });
        by_upn.or_else(|| {
            homes.into_iter().find_map(|home| {
                let is = |e: &&Entry| {
                    e.mail
                        .as_deref()
                        .is_some_and(|m| m.eq_ignore_ascii_case(upn))
                };
                let entry = home.directory().all().map(|(_, e)| e).find(is).cloned()?;
                Some((home, entry))
            })
        })
    }

    /// The accounts a page offers, tenant by tenant, each with what is special about it.
    fn offered(&self, call: &Call) -> String {
        let hint = call.field("login_hint").unwrap_or_default();
        let homes = self.homes(call);
        homes.iter().fold(String::new(), |mut html, home| {
            let directory = home.directory();
            let ordinary = |e: &Entry| !e.guest && e.enabled && !e.administrator;
            let all = || directory.all().map(|(_, e)| e);
            let offered = all()
                .filter(|e| e.administrator)
                .take(OFFERED)
                .chain(all().filter(|e| ordinary(e)).take(OFFERED))
                .chain(all().filter(|e| e.guest && !e.administrator).take(OFFERED))
                .chain(
                    all()
                        .filter(|e| !e.enabled && !e.guest && !e.administrator)
                        .take(OFFERED),
                );
            let accounts: String = offered
                .map(|entry| {
                    let badges = [
                        (entry.administrator, "Administrator"),
                        (entry.guest, "Guest"),
                        (!entry.enabled, "Disabled"),
                        (entry.mfa, "Second factor"),
                    ];
                    let badges: Vec<_> = badges.iter().filter(|b| b.0).map(|b| b.1).collect();
                    let chosen = entry.upn.eq_ignore_ascii_case(hint);
                    pages::account(&entry.upn, &entry.display_name(), &badges, chosen)
                })
                .collect();
            if !accounts.is_empty() {
                html.push_str(&pages::choices(&home.name, &accounts));
            }
            html
        })
    }

    fn sign_in_page(&self, call: &Call, scopes: &[String]) -> String {
        let for_all = if scopes.iter().any(|s| s.ends_with(".All")) {
            "<label class=\"choice\"><input type=\"checkbox\" name=\"sim_for_all\" value=\"yes\"><span>Consent on behalf of \
             the organisation (counts for administrators only)</span></label>"
        } else {
            ""
        };
        let offered = self.offered(call);
        // A typed account counts more than a picked one, so a hint is put in one place only.
        let typed = match call.field("login_hint") {
            Some(hint) if !offered.contains(" checked>") => hint,
            _ => "",
        };
        let inner = format!(
            "{offered}{}{}{for_all}",
            another_account(typed),
            pages::permissions(scopes.iter().map(String::as_str)),
        );
        pages::page(
            "Pick an account",
            &form(call, "oauth2/v2.0/authorize", &inner, &ACCEPT_OR_CANCEL),
        )
    }

    /// Admin consent, both styles: a page, and its form sent back.
    pub(super) fn admin_consent(&self, call: &Call, faults: &[Fault]) -> Answer {
        let (client, back) = match self.check_client(call) {
            Ok(checked) => checked,
            Err(refusal) => return self.on_page(call, &refusal),
        };
        let v1 = call.field("scope").is_none();
        let path = if v1 {
            "adminconsent"
        } else {
            "v2.0/adminconsent"
        };
        let state = call.field("state").map(|s| ("state", s.to_owned()));
        let answer = |fields: Vec<(&str, String)>| {
            let fields = fields.into_iter().chain(state.clone());
            Answer::redirect(with_query(&back, fields.map(|(n, v)| (n.to_owned(), v))))
        };
        let refused = |refusal: &Refusal, error: &str| {
            answer(vec![
                ("admin_consent", "True".to_owned()),
                ("error", error.to_owned()),
                ("error_description", refusal.description(&call.ids(self))),
            ])
        };
        if let Some(Fault::Aadsts { code, .. }) =
            faults.iter().find(|f| matches!(f, Fault::Aadsts { .. }))
        {
            let refusal = Refusal::new(*code);
            return refused(&refusal, refusal.error());
        }
        match call.field("sim_decision") {
            Some("accept") => {
                let home = match self.consenting_home(call, client, path) {
                    Ok(Ok(home)) => home,
                    Ok(Err(page)) => return Answer::html(200, page),
                    Err(refusal) => return self.on_page(call, &refusal),
                };
                let now = self.inner.clock.now();
                home.extend_consent(client, now, |consent| {
                    merge(&mut consent.application, REGISTERED);
                    merge(&mut consent.delegated, REGISTERED);
                });
                let tenant = if faults.contains(&Fault::ForgedTenant) {
                    Uuid::new_v4().to_string()
                } else {
                    home.id.to_string()
                };
                let mut fields = vec![("admin_consent", "True".to_owned()), ("tenant", tenant)];
                if let Some(scope) = call.field("scope") {
                    fields.push(("scope", scope.to_owned()));
                }
                answer(fields)
            }
            Some("return") => refused(&Refusal::new(90_094), "access_denied"),
            Some(_) if v1 => answer(vec![
                ("error", "permission_denied".to_owned()),
                (
                    "error_description",
                    "The admin canceled the request".to_owned(),
                ),
            ]),
            Some(_) => refused(&Refusal::new(65_004), "consent_required"),
            None => {
                let inner = format!(
                    "<p>Only an administrator can accept this for an organisation.</p>{}{}{}",
                    self.offered(call),
                    another_account(""),
                    pages::permissions(REGISTERED),
                );
                Answer::html(
                    200,
                    pages::page(
                        "Permissions requested for your organisation",
                        &form(call, path, &inner, &ACCEPT_OR_CANCEL),
                    ),
                )
            }
        }
    }

    /// The tenant for which the chosen account may consent; or the page it sees instead.
    ///
    /// A request that names a tenant and no account is taken for one by an administrator of it.
    fn consenting_home(
        &self,
        call: &Call,
        client: Uuid,
        path: &str,
    ) -> Result<Result<Arc<Cell>, String>, Refusal> {
        let upn = chosen_account(call);
        if upn.is_empty() {
            let home = match &call.authority {
                Authority::One(home) => Some(Arc::clone(home)),
                Authority::Any => call.field("tenant").and_then(|t| self.inner.cell_named(t)),
            };
            return home.map(Ok).ok_or_else(|| nobody(upn));
        }
        let (home, entry) = self.account(call, upn).ok_or_else(|| nobody(upn))?;
        let now = self.inner.clock.now();
        let mfa = call.field("sim_mfa") == Some("passed");
        match standing(&home, &entry, client, SignedIn { at: now, mfa }, now) {
            Err(refusal) if refusal.code == 50_076 => {
                if let Step::Page(page) = second_factor(call, path, upn)? {
                    return Ok(Err(page));
                }
            }
            // Consenting is not using: neither assignment nor the switch of the application stands in its way.
            Err(refusal) if !matches!(refusal.code, 50_105 | 7_000_112) => return Err(refusal),
            _ => {}
        }
        Ok(if entry.administrator {
            Ok(home)
        } else {
            Err(approval_page(call, path))
        })
    }

    /// Errors that are shown on Microsoft's page and never sent back.
    fn on_page(&self, call: &Call, refusal: &Refusal) -> Answer {
        let text = refusal.description(&call.ids(self)).replace("\r\n", " ");
        Answer::html(400, pages::message(pages::TROUBLE, &text))
    }

    fn back_with_refusal(&self, call: &Call, back: &str, refusal: &Refusal) -> Answer {
        let mut fields = vec![
            ("error".to_owned(), refusal.error().to_owned()),
            (
                "error_description".to_owned(),
                refusal.description(&call.ids(self)),
            ),
            (
                "error_uri".to_owned(),
                format!("{}/error?code={}", call.base, refusal.code),
            ),
        ];
        if refusal.code == 65_004 {
            fields.push(("error_subcode".to_owned(), "cancel".to_owned()));
        }
        give_back(call, back, fields)
    }
}

/// What a person sees where only an administrator may consent.
fn approval_page(call: &Call, path: &str) -> String {
    let buttons = [(
        "sim_decision",
        "return",
        "Return to the application without granting consent",
    )];
    pages::page(
        "Need admin approval",
        &form(
            call,
            path,
            "<p>The application needs permission to access resources in your organisation that only an administrator can grant. \
             Ask an administrator to approve it. (AADSTS90094)</p>",
            &buttons,
        ),
    )
}

/// The page that asks for a second factor, or the refusal of somebody who did not pass it.
fn second_factor(call: &Call, path: &str, upn: &str) -> Result<Step, Refusal> {
    if call.field("sim_mfa").is_some() {
        return Err(Refusal::because(
            50_074,
            "Strong authentication is required and the user did not pass the MFA challenge.",
        ));
    }
    let mut carried = vec![("account", upn), ("sim_decision", "accept")];
    if let Some(yes) = call.field("sim_for_all") {
        carried.push(("sim_for_all", yes));
    }
    let inner = format!(
        "{}<p>Signing in as <strong>{}</strong>. Your organisation asks for a second proof that it is you.</p>",
        pages::hidden(carried),
        pages::escape(upn)
    );
    let buttons = [
        ("sim_mfa", "passed", "I have confirmed it"),
        ("sim_mfa", "failed", "I cannot confirm it"),
    ];
    Ok(Step::Page(pages::page(
        "Verify your identity",
        &form(call, path, &inner, &buttons),
    )))
}

fn nobody(upn: &str) -> Refusal {
    Refusal::because(
        50_034,
        format!(
            "The user account {upn} does not exist in this directory. To sign into this application, the account must be added to the directory."
        ),
    )
}

/// The account of the form: the typed one counts more than the picked one.
fn chosen_account(call: &Call) -> &str {
    call.field("typed_account")
        .or_else(|| call.field("account"))
        .unwrap_or_default()
        .trim()
}

/// Whether an address looks like one of a personal Microsoft account.
fn is_personal(address: &str) -> bool {
    let domain = address.rsplit('@').next().unwrap_or_default();
    PERSONAL_DOMAINS
        .iter()
        .any(|d| domain.eq_ignore_ascii_case(d))
}

const ACCEPT_OR_CANCEL: [(&str, &str, &str); 2] = [
    ("sim_decision", "accept", "Accept"),
    ("sim_decision", "cancel", "Cancel"),
];

fn another_account(typed: &str) -> String {
    format!(
        "<div class=\"field\"><label for=\"typed_account\">Another account</label><input type=\"text\" id=\"typed_account\" \
         name=\"typed_account\" value=\"{}\" autocomplete=\"off\" autocapitalize=\"none\" spellcheck=\"false\" \
         aria-describedby=\"typed_hint\"><p class=\"soft\" id=\"typed_hint\">Counts more than the choice above. Personal \
         accounts end in @outlook.com.</p></div>",
        pages::escape(typed)
    )
}

/// A form that carries the request along; the first button is the main one.
fn form(call: &Call, path: &str, inner: &str, buttons: &[(&str, &str, &str)]) -> String {
    let mut html = format!(
        "<form method=\"post\" action=\"{}\">{}{inner}<div class=\"buttons\">",
        own_address(call, path),
        hidden_fields(call)
    );
    for (n, (name, value, text)) in buttons.iter().enumerate() {
        let class = if n == 0 { " class=\"main\"" } else { "" };
        let _ = write!(
            html,
            "<button{class} name=\"{name}\" value=\"{value}\">{text}</button>"
        );
    }
    html.push_str("</div></form>");
    html
}

fn own_address(call: &Call, path: &str) -> String {
    pages::escape(&format!("{}/{}/{path}", call.base, call.name))
}

/// The parameters of the request, to come back with the form.
fn hidden_fields(call: &Call) -> String {
    let own = [
        "sim_decision",
        "account",
        "typed_account",
        "tenant",
        "sim_mfa",
        "sim_for_all",
    ];
    let mut fields: Vec<_> = call
        .fields
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .filter(|(name, _)| !own.contains(name))
        .collect();
    fields.sort_unstable();
    pages::hidden(fields)
}

/// Sends fields back to the application, in the way it asked for.
fn give_back(call: &Call, back: &str, mut fields: Vec<(String, String)>) -> Answer {
    if let Some(state) = call.field("state") {
        fields.push(("state".to_owned(), state.to_owned()));
    }
    match call.field("response_mode") {
        Some("form_post") => Answer::html(200, pages::post_back(back, &fields)),
        Some("fragment") => {
            let text = form_urlencoded::Serializer::new(String::new())
                .extend_pairs(fields)
                .finish();
            Answer::redirect(format!("{back}#{text}"))
        }
        _ => Answer::redirect(with_query(back, fields)),
    }
}

fn with_query(back: &str, fields: impl IntoIterator<Item = (String, String)>) -> String {
    match Url::parse(back) {
        Ok(mut url) => {
            url.query_pairs_mut().extend_pairs(fields);
            url.to_string()
        }
        Err(_) => back.to_owned(),
    }
}
