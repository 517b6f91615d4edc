//! The templates and what they show. Everything shown is escaped by the templates, except the fields of a form, which are rendered
//! by a template of their own.

use askama::Template;

use super::outcome::{Kind, Outcome};
use super::texts::Texts;
use crate::cloud::onboarding::{Field, Flaw, Wish};
use crate::model::Timestamp;

/// What every page has.
#[derive(Clone)]
pub struct Common {
    /// The sentences.
    pub t: &'static Texts,
    /// Name of this service.
    pub service: String,
    /// Who helps.
    pub support: String,
    /// Goes with every form.
    pub csrf: String,
    /// Whether Microsoft is simulated.
    pub simulated: bool,
}

impl Common {
    #[expect(clippy::unused_self, reason = "templates call methods")]
    fn fill(&self, text: &str, value: impl std::fmt::Display) -> String {
        Texts::fill(text, value)
    }

    fn steps(&self) -> [&'static str; 4] {
        let c = &self.t.common;
        [c.step_1, c.step_2, c.step_3, c.step_4]
    }
}

/// A time for people: in UTC, as the browser's zone is not known.
pub fn time(at: Timestamp) -> String {
    at.to_minute()
}

/// An entry that has to be mended.
pub struct Problem {
    /// Its field.
    pub field: Field,
    /// The field's label.
    pub label: &'static str,
    /// What is wrong.
    pub text: &'static str,
}

/// The form.
#[derive(Template)]
#[template(path = "start.html")]
pub struct StartPage {
    pub c: Common,
    pub wish: Wish,
    pub problems: Vec<Problem>,
    pub trouble: Option<&'static str>,
}

#[derive(Template)]
#[template(path = "entry.html")]
struct Entry<'a> {
    name: &'a str,
    kind: &'a str,
    label: &'a str,
    hint: Option<&'a str>,
    optional: Option<&'a str>,
    flaw: Option<&'a str>,
    value: &'a str,
    autocomplete: &'a str,
}

impl StartPage {
    /// With what was entered, and what is wrong with it.
    pub fn new(
        c: Common,
        wish: Wish,
        flaws: &[(Field, Flaw)],
        trouble: Option<&'static str>,
    ) -> Self {
        let problems = flaws
            .iter()
            .map(|(field, flaw)| Problem {
                field,
                label: label(c.t, field),
                text: flaw_text(c.t, *flaw),
            })
            .collect();
        Self {
            c,
            wish,
            problems,
            trouble,
        }
    }

    fn entry(&self, name: &str) -> String {
        let (s, w) = (&self.c.t.start, &self.wish);
        let (value, kind, autocomplete, hint) = match name {
            "first_name" => (&w.first_name, "text", "given-name", None),
            "last_name" => (&w.last_name, "text", "family-name", None),
            "company" => (&w.company, "text", "organization", None),
            "email" => (&w.email, "email", "email", None),
            "tenant" => (&w.tenant, "text", "off", Some(s.tenant_hint)),
            _ => (&w.administrator, "email", "off", Some(s.administrator_hint)),
        };
        let flaw = self
            .problems
            .iter()
            .find(|p| p.field == name)
            .map(|p| p.text);
        let entry = Entry {
            name,
            kind,
            label: label(self.c.t, name),
            hint,
            optional: (name == "administrator").then_some(s.optional),
            flaw,
            value,
            autocomplete,
        };
        entry.render().unwrap_or_default()
    }
}

fn label(t: &Texts, field: &str) -> &'static str {
    match field {
        "first_name" => t.start.first_name,
        "last_name" => t.start.last_name,
        "company" => t.start.company,
        "email" => t.start.email,
        "tenant" => t.start.tenant,
        _ => t.start.administrator,
    }
}

fn flaw_text(t: &Texts, flaw: Flaw) -> &'static str {
    match flaw {
        Flaw::Missing => t.flaws.missing,
        Flaw::TooLong => t.flaws.too_long,
        Flaw::NoAddress => t.flaws.no_address,
        Flaw::NoTenant => t.flaws.no_tenant,
        Flaw::UnknownTenant => t.flaws.unknown_tenant,
        Flaw::Personal => t.flaws.personal,
        Flaw::NationalCloud => t.flaws.national,
    }
}

/// The choice of the connection.
#[derive(Template)]
#[template(path = "connection.html")]
pub struct ConnectionPage {
    pub c: Common,
    pub organisation: bool,
    pub account: bool,
    pub nothing: bool,
}

/// The page of the blue button.
#[derive(Template)]
#[template(path = "authorize.html")]
pub struct AuthorizePage {
    pub c: Common,
    pub name: String,
    pub domain: String,
    pub reconnects: bool,
    /// Who asked, for somebody else who authorizes.
    pub asked_by: Option<String>,
    pub client_id: String,
    pub organisation: bool,
    /// `open`, `waiting`, `authorized`, `elsewhere`.
    pub stage: &'static str,
    /// Until when we wait for Microsoft.
    pub until: String,
    /// The text to forward.
    pub forward: String,
    /// Whether somebody else was named as the administrator.
    pub others: bool,
}

/// A button.
pub struct Action {
    pub href: &'static str,
    pub label: &'static str,
}

/// An outcome as shown.
pub struct Shown {
    pub name: String,
    pub title: &'static str,
    pub text: String,
    pub next: String,
    pub actions: Vec<Action>,
    pub code: String,
    pub correlation: String,
    pub time: String,
    /// Whether the details are open from the start.
    pub open: bool,
}

impl Shown {
    /// An outcome in words.
    pub fn new(outcome: &Outcome, t: &Texts) -> Self {
        let row = outcome.kind.row(t);
        let text = match row.text {
            Some(text) => Texts::fill(text, &outcome.subject),
            None => outcome.text.clone(),
        };
        let actions = row.steps.iter().map(|step| Action {
            href: step.href(),
            label: step.label(t),
        });
        Self {
            name: outcome.kind.name(),
            title: row.title,
            text,
            next: row.next.map_or_else(|| outcome.next.clone(), str::to_owned),
            actions: actions.collect(),
            code: outcome.code.clone(),
            correlation: outcome.correlation.clone(),
            time: time(Timestamp::from_millis(outcome.at)),
            open: matches!(
                outcome.kind,
                Kind::Administrator | Kind::Policy | Kind::Refused | Kind::Ours | Kind::NotProven
            ),
        }
    }

    fn has_details(&self) -> bool {
        !self.code.is_empty() || !self.correlation.is_empty()
    }
}

/// Something happened.
#[derive(Template)]
#[template(path = "outcome.html")]
pub struct OutcomePage {
    pub c: Common,
    pub o: Shown,
}

/// An enrolment code, shown once.
pub struct Enrolment {
    pub code: String,
    pub until: String,
    pub command: String,
    pub ini: String,
}

/// The end of the onboarding.
#[derive(Template)]
#[template(path = "complete.html")]
pub struct CompletePage {
    pub c: Common,
    pub title: &'static str,
    pub lead: String,
    pub step: bool,
    pub enrolment: Option<Enrolment>,
    pub link: Option<String>,
}

/// The way to the status page.
#[derive(Template)]
#[template(path = "sign_in.html")]
pub struct SignInPage {
    pub c: Common,
}

/// The health of a connection in words.
pub struct HealthShown {
    /// `good`, `warn`, `bad` or nothing.
    pub class: &'static str,
    pub state: &'static str,
    pub since: String,
    pub text: String,
    pub cure: String,
    pub code: String,
    /// Whether somebody has to authorize.
    pub asks: bool,
}

/// Coverage in words.
pub struct CoverageShown {
    pub text: String,
    pub watched: usize,
    pub resolving: usize,
    pub uncovered: usize,
    pub permille: usize,
}

/// A suite in words.
pub struct SuiteShown {
    pub name: String,
    pub class: &'static str,
    pub state: &'static str,
    pub since: String,
}

/// The customer's status page.
#[derive(Template)]
#[template(path = "status.html")]
pub struct StatusPage {
    pub c: Common,
    pub name: String,
    pub domain: String,
    pub tenant: String,
    pub health: HealthShown,
    pub coverage: CoverageShown,
    pub suites: Vec<SuiteShown>,
    pub connection: &'static str,
    pub authorized_by: String,
    pub authorized_at: String,
    pub by_link: bool,
    pub now: String,
    pub enrolment: Option<Enrolment>,
    pub link: Option<String>,
}

/// Before disconnecting.
#[derive(Template)]
#[template(path = "disconnect.html")]
pub struct DisconnectPage {
    pub c: Common,
    pub name: String,
    pub domain: String,
    pub suites: usize,
    pub allowed: bool,
    pub wrong: bool,
}

/// After disconnecting.
#[derive(Template)]
#[template(path = "receipt.html")]
pub struct ReceiptPage {
    pub c: Common,
    pub name: String,
    pub facts: Vec<(&'static str, String)>,
}
