//! What a page tells when it does not go on: one table for everything that can happen. What Microsoft's numbers mean comes from
//! [`crate::microsoft::aadsts`], the headings and everything else from [`Texts`].

use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::texts::Texts;
use crate::cloud::onboarding::Trouble;
use crate::microsoft::{MicrosoftError, Recovery};
use crate::model::{Cause, Timestamp};

/// Longest name shown in a sentence, in characters.
const MAX_SUBJECT: usize = 253;

/// A thing that can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Consent was declined.
    Declined,
    /// An account of another organisation.
    WrongOrganisation,
    /// A personal account.
    Personal,
    /// A guest.
    Guest,
    /// A permission was not granted.
    PermissionMissing,
    /// No refresh token.
    NoLastingAccess,
    /// Who signed in may not consent for the organisation.
    NotAdministrator,
    /// Something only an administrator can change.
    Administrator,
    /// Conditional Access and its like.
    Policy,
    /// Multi-factor authentication.
    Mfa,
    /// Password, lock, disabled.
    Account,
    /// Any other refusal of a sign-in.
    SignIn,
    /// Graph refused the test read.
    Refused,
    /// Our configuration.
    Ours,
    /// No answer, or "later".
    Down,
    /// Session, state or page too old, or never ours.
    Expired,
    /// A link after its end.
    Used,
    /// Connected, and not by this account.
    Connected,
    /// No tenant of this account.
    NotYours,
    /// The sign-in proves nothing.
    NotProven,
    /// Too many sign-ins.
    TooMany,
    /// A form from elsewhere.
    Forbidden,
    /// No such page.
    NotFound,
    /// An error of ours.
    Internal,
}

/// Where a button of an outcome leads. There are no other addresses: nothing from outside becomes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The page of the blue button.
    Again,
    /// The form.
    Start,
    /// The text for the administrator.
    Forward,
    /// The choice of the connection.
    Choose,
    /// The status page.
    Status,
}

impl Step {
    /// The path.
    pub const fn href(self) -> &'static str {
        match self {
            Self::Again => "/authorize",
            Self::Start => "/",
            Self::Forward => "/authorize#forward",
            Self::Choose => "/connection",
            Self::Status => "/status",
        }
    }

    /// What stands on the button.
    pub const fn label(self, t: &Texts) -> &'static str {
        match self {
            Self::Again => t.outcomes.again,
            Self::Start => t.outcomes.start,
            Self::Forward => t.outcomes.forward,
            Self::Choose => t.outcomes.choose,
            Self::Status => t.outcomes.to_status,
        }
    }
}

/// A row of the table.
pub struct Row {
    /// Heading.
    pub title: &'static str,
    /// What happened; `{}` is the organisation or the permission. `None`: Microsoft's number says it.
    pub text: Option<&'static str>,
    /// What to do. `None`: Microsoft's number says it.
    pub next: Option<&'static str>,
    /// Buttons; the first stands out.
    pub steps: &'static [Step],
    /// Status of an answer that is this outcome at once.
    pub status: StatusCode,
}

impl Kind {
    /// All.
    #[cfg(test)]
    pub const ALL: [Self; 24] = [
        Self::Declined,
        Self::WrongOrganisation,
        Self::Personal,
        Self::Guest,
        Self::PermissionMissing,
        Self::NoLastingAccess,
        Self::NotAdministrator,
        Self::Administrator,
        Self::Policy,
        Self::Mfa,
        Self::Account,
        Self::SignIn,
        Self::Refused,
        Self::Ours,
        Self::Down,
        Self::Expired,
        Self::Used,
        Self::Connected,
        Self::NotYours,
        Self::NotProven,
        Self::TooMany,
        Self::Forbidden,
        Self::NotFound,
        Self::Internal,
    ];

    /// The table.
    pub fn row(self, t: &Texts) -> Row {
        use Step::{Again, Choose, Forward, Start, Status};
        let o = &t.outcomes;
        let row = |title, text, next, steps, status| Row {
            title,
            text: Some(text),
            next: Some(next),
            steps,
            status,
        };
        let by_number = |title, steps| Row {
            title,
            text: None,
            next: None,
            steps,
            status: StatusCode::OK,
        };
        let ok = StatusCode::OK;
        match self {
            Self::Declined => row(
                o.declined,
                o.declined_text,
                o.declined_next,
                &[Again, Forward],
                ok,
            ),
            Self::WrongOrganisation => row(
                o.wrong_organisation,
                o.wrong_organisation_text,
                o.wrong_organisation_next,
                &[Again, Start],
                ok,
            ),
            Self::Personal => row(
                o.personal,
                o.personal_text,
                o.personal_next,
                &[Again, Start],
                ok,
            ),
            Self::Guest => row(o.guest, o.guest_text, o.guest_next, &[Again, Forward], ok),
            Self::PermissionMissing => row(
                o.permission,
                o.permission_text,
                o.permission_next,
                &[Again, Forward],
                ok,
            ),
            Self::NoLastingAccess => row(
                o.no_lasting,
                o.no_lasting_text,
                o.no_lasting_next,
                &[Again, Choose],
                ok,
            ),
            Self::NotAdministrator => row(
                o.not_administrator,
                o.not_administrator_text,
                o.not_administrator_next,
                &[Forward, Choose],
                ok,
            ),
            Self::Administrator => by_number(o.administrator, &[Forward, Again]),
            Self::Policy => by_number(o.policy, &[Forward, Again]),
            Self::Mfa => by_number(o.mfa, &[Again, Forward]),
            Self::Account => by_number(o.account, &[Again, Forward]),
            Self::SignIn => by_number(o.sign_in, &[Again, Forward]),
            Self::Refused => row(
                o.refused,
                o.refused_text,
                o.refused_next,
                &[Again, Forward],
                ok,
            ),
            Self::Ours => row(o.ours, o.ours_text, o.ours_next, &[Again], ok),
            Self::Down => row(o.down, o.down_text, o.down_next, &[Again], ok),
            Self::Expired => row(
                o.expired,
                o.expired_text,
                o.expired_next,
                &[Start, Status],
                StatusCode::BAD_REQUEST,
            ),
            Self::Used => row(
                o.used,
                o.used_text,
                o.used_next,
                &[Status, Start],
                StatusCode::GONE,
            ),
            Self::Connected => row(
                o.connected,
                o.connected_text,
                o.connected_next,
                &[Status],
                ok,
            ),
            Self::NotYours => row(
                o.not_yours,
                o.not_yours_text,
                o.not_yours_next,
                &[Status, Start],
                ok,
            ),
            Self::NotProven => row(
                o.not_proven,
                o.not_proven_text,
                o.not_proven_next,
                &[Again],
                ok,
            ),
            Self::TooMany => row(
                o.too_many,
                o.too_many_text,
                o.too_many_next,
                &[],
                StatusCode::TOO_MANY_REQUESTS,
            ),
            Self::Forbidden => row(
                o.forbidden,
                o.forbidden_text,
                o.forbidden_next,
                &[Start],
                StatusCode::FORBIDDEN,
            ),
            Self::NotFound => row(
                o.not_found,
                o.not_found_text,
                o.not_found_next,
                &[Start],
                StatusCode::NOT_FOUND,
            ),
            Self::Internal => row(
                o.internal,
                o.internal_text,
                o.internal_next,
                &[Start],
                StatusCode::INTERNAL_SERVER_ERROR,
            ),
        }
    }

    /// The name in the page and in tests.
    pub fn name(self) -> String {
        serde_json::to_value(self)
            .ok()
            .and_then(|v| v.as_str().map(str::to_owned))
            .unwrap_or_default()
    }
}

/// Something that happened, to be told on the next page. Kept in the session; holds no name of a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// What.
    pub kind: Kind,
    /// The organisation or the permission, where the sentence names one.
    pub subject: String,
    /// What Microsoft's number means, and what to do; empty where the table says it.
    pub text: String,
    /// See `text`.
    pub next: String,
    /// Microsoft's code, or ours.
    pub code: String,
    /// Finds the event in the tenant's sign-in log.
    pub correlation: String,
    /// When, in milliseconds since 1970.
    pub at: i64,
}

impl Outcome {
    /// Without anything of Microsoft's.
    pub fn plain(kind: Kind, subject: &str, now: Timestamp) -> Self {
        Self {
            kind,
            subject: subject.chars().take(MAX_SUBJECT).collect(),
            text: String::new(),
            next: String::new(),
            code: String::new(),
            correlation: String::new(),
            at: now.as_millis(),
        }
    }

    /// What a refusal by Microsoft means for the person at the browser.
    pub fn of_microsoft(error: &MicrosoftError, now: Timestamp) -> Self {
        let (kind, cause) = kind_of(error);
        let mut outcome = Self::plain(kind, "", now);
        if let Some(cause) = cause {
            outcome.code = cause.code;
            (outcome.text, outcome.next) = (cause.text, cause.remedy);
        }
        outcome.correlation = error
            .correlation_id()
            .map(str::to_owned)
            .unwrap_or_default();
        outcome
    }

    /// What trouble with an onboarding means; `domain` is the organisation it is for.
    pub fn of_trouble(trouble: &Trouble, domain: &str, now: Timestamp) -> Self {
        let plain = |kind| Self::plain(kind, domain, now);
        match trouble {
            Trouble::Microsoft(e) | Trouble::NotThereYet(e) => Self::of_microsoft(e, now),
            Trouble::NotProven(e) => Self {
                code: format!("{e:?}")
                    .chars()
                    .filter(char::is_ascii_alphanumeric)
                    .take(32)
                    .collect(),
                ..plain(Kind::NotProven)
            },
            Trouble::PersonalAccount => plain(Kind::Personal),
            Trouble::WrongOrganisation => plain(Kind::WrongOrganisation),
            Trouble::Guest => plain(Kind::Guest),
            Trouble::NotAdministrator => plain(Kind::NotAdministrator),
            Trouble::RolesNotTold => Self {
                code: "wids".into(),
                ..plain(Kind::Ours)
            },
            Trouble::PermissionMissing(name) => Self::plain(Kind::PermissionMissing, name, now),
            Trouble::NoLastingAccess => plain(Kind::NoLastingAccess),
            Trouble::AlreadyConnected => plain(Kind::Connected),
            Trouble::MovedOn => plain(Kind::Used),
            Trouble::Store(_) | Trouble::Seal(_) => plain(Kind::Internal),
        }
    }
}

/// The heading for a refusal, and what its number says. `entra-oauth.md` §9 orders the numbers as they are ordered here.
fn kind_of(error: &MicrosoftError) -> (Kind, Option<Cause>) {
    let (cause, administrator) = match error.recovery() {
        Recovery::Retry { .. } | Recovery::Throttled { .. } => return (Kind::Down, None),
        Recovery::OurFault { cause, .. } => {
            let silent = Cause {
                text: String::new(),
                remedy: String::new(),
                code: cause.code,
                correlation_id: String::new(),
            };
            return (Kind::Ours, Some(silent));
        }
        Recovery::FreshToken { .. } | Recovery::Split => return (Kind::Refused, None),
        Recovery::Reauthorize(cause) => (cause, false),
        Recovery::AskAdministrator(cause) => (cause, true),
    };
    if error.status() == Some(403) && !cause.code.starts_with("AADSTS") {
        let silent = Cause {
            text: String::new(),
            remedy: String::new(),
            code: cause.code,
            correlation_id: String::new(),
        };
        return (Kind::Refused, Some(silent));
    }
    let number = cause
        .code
        .strip_prefix("AADSTS")
        .and_then(|n| n.parse::<u64>().ok());
    let kind = match number {
        Some(65_004) => Kind::Declined,
        None if matches!(cause.code.as_str(), "access_denied" | "permission_denied") => {
            Kind::Declined
        }
        Some(16_000 | 50_014 | 50_020 | 51_004 | 90_072 | 50_034) => Kind::Account,
        Some(50_053 | 50_055 | 50_056 | 50_057 | 50_064 | 50_126 | 50_135 | 50_144) => {
            Kind::Account
        }
        Some(50_072 | 50_074 | 50_076 | 50_078 | 50_079 | 50_158 | 53_004 | 70_043) => Kind::Mfa,
        Some(
            50_002
            | 50_097
            | 50_131
            | 50_155
            | 50_187
            | 53_000..=53_003
            | 53_011
            | 500_021
            | 500_022
            | 500_212
            | 500_213
            | 530_003
            | 530_032
            | 530_035,
        ) => Kind::Policy,
        _ if administrator => Kind::Administrator,
        _ => Kind::SignIn,
    };
    // The table of this page says it better than a word of OAuth's.
    let cause = if kind == Kind::Declined {
        Cause {
            text: String::new(),
            remedy: String::new(),
            code: cause.code,
            correlation_id: String::new(),
        }
    } else {
        cause
    };
    (kind, Some(cause))
}

#[cfg(test)]
mod tests {
    use super::super::texts::ENGLISH;
    use super::*;
    use crate::microsoft::aadsts;
    use crate::microsoft::entra::refused_in_browser;

    #[test]
    fn every_outcome_has_a_heading_a_text_and_a_next_step() {
        for kind in Kind::ALL {
            let row = kind.row(&ENGLISH);
            assert!(!row.title.is_empty(), "{kind:?}");
            assert_eq!(row.text.is_some(), row.next.is_some(), "{kind:?}");
            assert!(!row.steps.is_empty() || kind == Kind::TooMany, "{kind:?}");
            assert!(!kind.name().is_empty());
        }
    }

    #[test]
    fn every_number_of_microsoft_s_makes_a_page_with_its_own_text() {
        let now = Timestamp::default();
        for (number, row) in aadsts::ROWS
            .iter()
            .flat_map(|r| r.codes.iter().map(move |c| (c, r)))
        {
            let error = refused_in_browser("access_denied", &format!("AADSTS{number}: text"));
            let outcome = Outcome::of_microsoft(&error, now);
            let table = outcome.kind.row(&ENGLISH);
            match row.class {
                aadsts::Class::Ours | aadsts::Class::OurCredential => {
                    assert_eq!(outcome.kind, Kind::Ours, "{number}");
                    assert_eq!(outcome.code, format!("AADSTS{number}"));
                }
                aadsts::Class::Transient => assert_eq!(outcome.kind, Kind::Down, "{number}"),
                _ => {
                    assert_eq!(outcome.code, format!("AADSTS{number}"));
                    assert!(table.text.is_some() || outcome.text == row.text, "{number}");
                    assert!(
                        table.next.is_some() || outcome.next == row.remedy,
                        "{number}"
                    );
                }
            }
        }
    }

    #[test]
    fn kinds_are_told_apart() {
        let kind = |error: &str, description: &str| {
            Outcome::of_microsoft(
                &refused_in_browser(error, description),
                Timestamp::default(),
            )
            .kind
        };
        for (error, description, expected) in [
            ("access_denied", "AADSTS65004: declined", Kind::Declined),
            (
                "permission_denied",
                "The admin canceled the request",
                Kind::Declined,
            ),
            ("access_denied", "", Kind::Declined),
            ("access_denied", "AADSTS90094: x", Kind::Administrator),
            ("interaction_required", "AADSTS50076: x", Kind::Mfa),
            ("access_denied", "AADSTS53003: x", Kind::Policy),
            ("access_denied", "AADSTS50105: x", Kind::Administrator),
            ("access_denied", "AADSTS50057: x", Kind::Account),
            ("invalid_request", "AADSTS90014: x", Kind::Ours),
            ("temporarily_unavailable", "AADSTS90033: x", Kind::Down),
            ("server_error", "", Kind::Down),
            ("login_required", "", Kind::SignIn),
        ] {
            assert_eq!(kind(error, description), expected, "{error} {description}");
        }
    }
}
