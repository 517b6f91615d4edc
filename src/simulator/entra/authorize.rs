//! Signing in and consenting in a browser. `entra-oauth.md` §2 and §6.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use url::{Url, form_urlencoded};
use uuid::Uuid;

use super::aadsts::Refusal;
use super::token::{code_expiry, requested_scopes};
use super::{Authority, Call, client_id, pages};
use crate::secret::random_token;
use crate::simulator::answer::Answer;
use crate::simulator::directory::Entry;
use crate::simulator::faults::Fault;
use crate::simulator::tenant::{Cell, merge};
use crate::simulator::world::{Code, Microsoft};

/// How many accounts of a tenant the page offers; others can be typed.
const OFFERED: usize = 6;

/// What an application asks for with `.default`: what our registration names.
const REGISTERED: [&str; 2] = ["Presence.Read.All", "User.ReadBasic.All"];

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
                Ok(fields) => give_back(call, &back, fields),
                Err(refusal) if refusal.code == 90_094 => Answer::html(200, approval_page(call)),
                Err(refusal) => self.on_page(call, &refusal),
            },
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

    /// Signs the chosen account in and consents; the fields to send back.
    fn sign_in(
        &self,
        call: &Call,
        client: Uuid,
        back: &str,
        scopes: Vec<String>,
    ) -> Result<Vec<(String, String)>, Refusal> {
        let upn = call
            .field("typed_account")
            .or_else(|| call.field("account"))
            .unwrap_or_default()
            .trim();
        let (home, entry) = self.account(call, upn).ok_or_else(|| {
            Refusal::because(
                50_034,
                format!("The user account {upn} does not exist in this directory. To sign into this application, the account must be added to the directory."),
            )
        })?;
        if !entry.enabled {
            return Err(Refusal::new(50_057));
        }
        let allowed = home.consent(client).is_some_and(|consent| {
            let mut needed = scopes.iter().filter(|s| s.ends_with(".All"));
            needed.all(|s| consent.delegated_to(entry.id, s))
        });
        if !allowed && !home.user_consent.load(Ordering::Relaxed) {
            return Err(Refusal::new(90_094));
        }
        let now = self.inner.clock.now();
        home.extend_consent(client, now, |consent| {
            let given = consent.people.entry(entry.id).or_default();
            merge(given, scopes.iter().map(String::as_str));
        });
        let code = format!("1.{}", random_token());
        self.inner.state().codes.insert(
            code.clone(),
            Code {
                client,
                authority: call.name.clone(),
                tenant: home.id,
                person: entry.id,
                redirect_uri: back.to_owned(),
                scopes,
                nonce: call.field("nonce").map(str::to_owned),
                challenge: call.field("code_challenge").map(str::to_owned),
                expires: code_expiry(now),
                used: false,
            },
        );
        let mut fields = vec![("code".to_owned(), code)];
        if self.inner.switches().session_state {
            fields.push(("session_state".to_owned(), Uuid::new_v4().to_string()));
        }
        Ok(fields)
    }

    fn account(&self, call: &Call, upn: &str) -> Option<(Arc<Cell>, Entry)> {
        let homes = match &call.authority {
            Authority::One(home) => vec![Arc::clone(home)],
            Authority::Any => self.inner.cells(),
        };
        homes.into_iter().find_map(|home| {
            let entry = home.directory().by_upn(upn).cloned()?;
            Some((home, entry))
        })
    }

    fn sign_in_page(&self, call: &Call, scopes: &[String]) -> String {
        let homes = match &call.authority {
            Authority::One(home) => vec![Arc::clone(home)],
            Authority::Any => self.inner.cells(),
        };
        let hint = call.field("login_hint").unwrap_or_default();
        let mut form = String::new();
        for home in homes {
            let _ = write!(
                form,
                "<p><strong>{}</strong></p>",
                pages::escape(&home.name)
            );
            for (_, entry) in home.directory().all().take(OFFERED) {
                let upn = pages::escape(&entry.upn);
                let chosen = if entry.upn.eq_ignore_ascii_case(hint) {
                    " checked"
                } else {
                    ""
                };
                let _ = write!(
                    form,
                    "<label><input type=\"radio\" name=\"account\" value=\"{upn}\"{chosen}> {upn}</label>"
                );
            }
        }
        let wanted = pages::items(scopes.iter().map(String::as_str));
        pages::page(
            "Pick an account",
            &format!(
                "<form method=\"post\" action=\"{action}\">{hidden}{form}\
                 <label>Another account<input type=\"text\" name=\"typed_account\" value=\"{typed}\" autocomplete=\"off\"></label>\
                 <p>The application asks for:</p><ul>{wanted}</ul>\
                 <button class=\"main\" name=\"sim_decision\" value=\"accept\">Accept</button>\
                 <button name=\"sim_decision\" value=\"cancel\">Cancel</button></form>",
                action = own_address(call, "oauth2/v2.0/authorize"),
                hidden = hidden_fields(call),
                typed = pages::escape(hint),
            ),
        )
    }

    /// Admin consent, both styles: a page, and its form sent back.
    pub(super) fn admin_consent(&self, call: &Call, faults: &[Fault]) -> Answer {
        let (client, back) = match self.check_client(call) {
            Ok(checked) => checked,
            Err(refusal) => return self.on_page(call, &refusal),
        };
        let v1 = call.field("scope").is_none();
        let state = call
            .field("state")
            .map(|s| ("state".to_owned(), s.to_owned()));
        let chosen = match &call.authority {
            Authority::One(home) => Some(Arc::clone(home)),
            Authority::Any => call.field("tenant").and_then(|t| self.inner.cell_named(t)),
        };
        let answer = |fields: Vec<(String, String)>| {
            Answer::redirect(with_query(&back, fields.into_iter().chain(state.clone())))
        };
        match (call.field("sim_decision"), chosen) {
            (Some("accept"), Some(home)) => {
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
                let mut fields = vec![
                    ("admin_consent".to_owned(), "True".to_owned()),
                    ("tenant".to_owned(), tenant),
                ];
                if let Some(scope) = call.field("scope") {
                    fields.push(("scope".to_owned(), scope.to_owned()));
                }
                answer(fields)
            }
            (Some("cancel"), _) if v1 => answer(vec![
                ("error".to_owned(), "permission_denied".to_owned()),
                (
                    "error_description".to_owned(),
                    "The admin canceled the request".to_owned(),
                ),
            ]),
            (Some("cancel"), _) => answer(vec![
                ("admin_consent".to_owned(), "True".to_owned()),
                ("error".to_owned(), "consent_required".to_owned()),
                (
                    "error_description".to_owned(),
                    Refusal::new(65_004).description(&call.ids(self)),
                ),
            ]),
            _ => Answer::html(200, self.admin_page(call)),
        }
    }

    fn admin_page(&self, call: &Call) -> String {
        let tenants: String = match &call.authority {
            Authority::One(home) => {
                format!("<p>For <strong>{}</strong></p>", pages::escape(&home.name))
            }
            Authority::Any => self
                .inner
                .cells()
                .iter()
                .fold(String::new(), |mut html, home| {
                    let name = pages::escape(&home.name);
                    let _ = write!(
                        html,
                        "<label><input type=\"radio\" name=\"tenant\" value=\"{}\"> {name}</label>",
                        home.id
                    );
                    html
                }),
        };
        let wanted = pages::items(REGISTERED);
        let path = if call.field("scope").is_some() {
            "v2.0/adminconsent"
        } else {
            "adminconsent"
        };
        pages::page(
            "Permissions requested for your organisation",
            &format!(
                "<form method=\"post\" action=\"{action}\">{hidden}{tenants}<ul>{wanted}</ul>\
                 <button class=\"main\" name=\"sim_decision\" value=\"accept\">Accept</button>\
                 <button name=\"sim_decision\" value=\"cancel\">Cancel</button></form>",
                action = own_address(call, path),
                hidden = hidden_fields(call),
            ),
        )
    }

    /// Errors that are shown on Microsoft's page and never sent back.
    fn on_page(&self, call: &Call, refusal: &Refusal) -> Answer {
        let text = refusal.description(&call.ids(self)).replace("\r\n", " ");
        Answer::html(
            400,
            pages::message("Sorry, but we're having trouble signing you in.", &text),
        )
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
fn approval_page(call: &Call) -> String {
    pages::page(
        "Need admin approval",
        &format!(
            "<p>The application needs permission to access resources in your organisation that only an administrator can grant. \
             (AADSTS90094)</p><form method=\"post\" action=\"{}\">{}<button name=\"sim_decision\" value=\"cancel\">Return to the \
             application without granting consent</button></form>",
            own_address(call, "oauth2/v2.0/authorize"),
            hidden_fields(call)
        ),
    )
}

fn own_address(call: &Call, path: &str) -> String {
    pages::escape(&format!("{}/{}/{path}", call.base, call.name))
}

/// The parameters of the request, to come back with the form.
fn hidden_fields(call: &Call) -> String {
    let own = ["sim_decision", "account", "typed_account", "tenant"];
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
