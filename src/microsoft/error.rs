//! What can go wrong with Microsoft, and what each of it means: mapped here, once.
//!
//! Nothing in here holds or prints a token, a name or a body: words from outside pass only if they look like technical
//! words. `microsoft-graph.md` §9 and §10, `entra-oauth.md` §9 and §10, `security-and-faults.md` §6.

use std::fmt;
use std::time::Duration;

use super::aadsts::{self, Class, Row};
use super::transport::{TransportError, Waiting};
use crate::model::Cause;

/// What was attempted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `getPresencesByUserId`.
    Presences,
    /// Names to ids, through `$batch`.
    Lookup,
    /// The discovery document of a tenant.
    Discover,
    /// A token by client credentials.
    AppToken,
    /// A token by refresh token.
    Refresh,
    /// Signing in or consenting in a browser, at Microsoft's pages.
    Authorize,
    /// Tokens for the code of a sign-in.
    Redeem,
    /// The keys that sign id tokens.
    SigningKeys,
}

impl Operation {
    /// Each of them, in the order in which they are written above.
    pub const ALL: [Self; 8] = [
        Self::Presences,
        Self::Lookup,
        Self::Discover,
        Self::AppToken,
        Self::Refresh,
        Self::Authorize,
        Self::Redeem,
        Self::SigningKeys,
    ];
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Presences => "reading presence",
            Self::Lookup => "looking up names",
            Self::Discover => "finding the organisation",
            Self::AppToken => "getting an application token",
            Self::Refresh => "refreshing a token",
            Self::Authorize => "authorizing in the browser",
            Self::Redeem => "redeeming the code of a sign-in",
            Self::SigningKeys => "fetching Microsoft's signing keys",
        })
    }
}

/// An outcome that is no success.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MicrosoftError {
    /// No answer.
    #[error("{operation}: no answer")]
    Transport {
        /// What was attempted.
        operation: Operation,
        /// Why there is none.
        #[source]
        source: TransportError,
    },
    /// Graph, or something in front of Graph or Entra, answered with an error status.
    #[error("{0}")]
    Status(Box<StatusError>),
    /// Entra refused, in OAuth's words.
    #[error("{0}")]
    OAuth(Box<OAuthError>),
    /// A success whose content is unusable: `BadAnswer`.
    #[error("{operation}: bad answer: {problem}")]
    Body {
        /// What was attempted.
        operation: Operation,
        /// What is wrong with it.
        problem: BadAnswer,
    },
    /// The input cannot be asked for; nothing was sent.
    #[error("{operation}: {problem}")]
    Input {
        /// What was attempted.
        operation: Operation,
        /// What is wrong with it.
        problem: BadInput,
    },
}

/// What is wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadAnswer {
    /// Not JSON: a web page, an empty or a damaged body.
    #[error("it is not JSON")]
    NotJson,
    /// JSON without what was asked for.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// The next page lies on another host; it was not fetched.
    #[error("the next page lies elsewhere")]
    ForeignLink,
    /// More pages than make sense.
    #[error("it has no end")]
    TooManyPages,
}

/// What cannot be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadInput {
    /// More than fits into one request: an error of ours.
    #[error("more than {0} at once")]
    TooMany(usize),
    /// Neither a domain nor an id of a tenant.
    #[error("that is neither a domain name nor the id of an organisation")]
    Tenant,
    /// Tenant of personal accounts, which have no Teams presence.
    #[error("personal Microsoft accounts are not supported")]
    PersonalAccounts,
    /// The token or credential has characters no header can carry, or signing failed: an error of ours.
    #[error("the credential cannot be used")]
    Credential,
}

/// An answer with an error status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusError {
    /// What was attempted.
    pub operation: Operation,
    /// HTTP status.
    pub status: u16,
    /// `error.code` of the envelope; empty when there is none.
    pub code: String,
    /// Microsoft's `request-id`, for support cases.
    pub request_id: Option<String>,
    /// The `client-request-id` we sent.
    pub client_request_id: Option<String>,
    /// How long Microsoft asks us to wait.
    pub retry_after: Option<Duration>,
    /// The decoded claims challenge of a 401.
    pub claims: Option<String>,
}

impl fmt::Display for StatusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: status {}", self.operation, self.status)?;
        if !self.code.is_empty() {
            write!(f, " {}", self.code)?;
        }
        if let Some(wait) = self.retry_after {
            write!(f, ", told to wait {} s", wait.as_secs())?;
        }
        if let Some(id) = &self.request_id {
            write!(f, " (request-id {id})")?;
        }
        Ok(())
    }
}

/// A refusal by Entra. Its description is not kept: it is for people and may name them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OAuthError {
    /// What was attempted.
    pub operation: Operation,
    /// HTTP status.
    pub status: u16,
    /// OAuth's `error` word.
    pub error: String,
    /// The AADSTS numbers.
    pub codes: Vec<u64>,
    /// Entra's `suberror`; empty when there is none.
    pub suberror: String,
    /// Claims to ask for in the next authorize request, as JSON.
    pub claims: Option<String>,
    /// Entra's trace id.
    pub trace_id: Option<String>,
    /// Entra's correlation id: finds the event in the tenant's sign-in log.
    pub correlation_id: Option<String>,
    /// How long Microsoft asks us to wait.
    pub retry_after: Option<Duration>,
}

impl OAuthError {
    fn row(&self) -> Row {
        self.codes
            .iter()
            .find_map(|code| aadsts::lookup(*code).copied())
            .or_else(|| match self.error.as_str() {
                "invalid_grant" | "interaction_required" => aadsts::by_suberror(&self.suberror),
                _ => None,
            })
            .unwrap_or_else(|| aadsts::by_error_word(&self.error))
    }

    fn code(&self) -> String {
        self.codes
            .iter()
            .find(|code| aadsts::lookup(**code).is_some())
            .or(self.codes.first())
            .map_or_else(|| self.error.clone(), |code| format!("AADSTS{code}"))
    }

    fn recovery(&self) -> Recovery {
        if self.status == 429 {
            return Recovery::Throttled {
                after: self.retry_after,
            };
        }
        let row = self.row();
        if self.status >= 500 {
            return Recovery::Retry {
                after: self.retry_after.or(row.wait),
            };
        }
        let class = row.unattended.unwrap_or(row.class);
        let cause = match class {
            Class::Ours | Class::OurCredential => {
                cause(aadsts::OURS_TEXT, aadsts::OURS_REMEDY, self.code())
            }
            _ => cause(row.text, row.remedy, self.code()),
        };
        match class {
            Class::Transient => Recovery::Retry {
                after: self.retry_after.or(row.wait),
            },
            // Without a user there is nobody to sign in: what is left is consent, and that is the administrator's.
            Class::Reauthorize | Class::Person if self.operation != Operation::AppToken => {
                Recovery::Reauthorize(cause)
            }
            Class::Reauthorize | Class::Person | Class::Administrator => {
                Recovery::AskAdministrator(cause)
            }
            Class::Ours => Recovery::OurFault {
                cause,
                for_all: false,
            },
            Class::OurCredential => Recovery::OurFault {
                cause,
                for_all: true,
            },
        }
    }
}

impl fmt::Display for OAuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: status {} {}",
            self.operation, self.status, self.error
        )?;
        for code in &self.codes {
            write!(f, " AADSTS{code}")?;
        }
        if !self.suberror.is_empty() {
            write!(f, " ({})", self.suberror)?;
        }
        if let Some(id) = &self.trace_id {
            write!(f, ", trace {id}")?;
        }
        if let Some(id) = &self.correlation_id {
            write!(f, ", correlation {id}")?;
        }
        Ok(())
    }
}

/// What to do about an outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovery {
    /// It passes: keep the tenant and back off.
    Retry {
        /// How long Microsoft, or the kind of error, asks us to wait.
        after: Option<Duration>,
    },
    /// Stop the whole bucket: every call of this kind for this tenant.
    Throttled {
        /// How long Microsoft asks us to wait.
        after: Option<Duration>,
    },
    /// The access token is refused: get a fresh one once, then try once more. Refused again, it passes or it is a 403.
    FreshToken {
        /// The decoded claims challenge, to be sent with the request for the token.
        claims: Option<String>,
    },
    /// Something in the list is not to Microsoft's taste: halve the list to find it. A list of one is the poison itself.
    ///
    /// A 500 counts among these, and may as well be a failure that passes: whoever halves a list and sees both halves
    /// fail should back off as for [`Recovery::Retry`] instead of blaming everybody in it.
    Split,
    /// Somebody of the customer has to sign in again.
    Reauthorize(Cause),
    /// An administrator of the customer has to change something.
    AskAdministrator(Cause),
    /// Our credential or our error: alarm us, never blame the tenant.
    OurFault {
        /// What it is.
        cause: Cause,
        /// Whether it hits every tenant.
        for_all: bool,
    },
}

fn cause(text: &str, remedy: &str, code: String) -> Cause {
    Cause {
        text: text.to_owned(),
        remedy: remedy.to_owned(),
        code,
        correlation_id: String::new(),
    }
}

fn our_fault(code: String) -> Recovery {
    Recovery::OurFault {
        cause: cause(aadsts::OURS_TEXT, aadsts::OURS_REMEDY, code),
        for_all: false,
    }
}

impl StatusError {
    fn recovery(&self) -> Recovery {
        let after = self.retry_after;
        let code = if self.code.is_empty() {
            self.status.to_string()
        } else {
            self.code.clone()
        };
        match (self.operation, self.status) {
            (_, 429 | 509) => Recovery::Throttled { after },
            (Operation::Presences | Operation::Lookup, 401) => Recovery::FreshToken {
                claims: self.claims.clone(),
            },
            (Operation::Presences | Operation::Lookup, 403) => Recovery::AskAdministrator(cause(
                "Microsoft refuses access: a permission is missing, was withdrawn, or is blocked by a policy.",
                "Have an administrator approve this application again, with the permissions to read presence and basic profiles; if that does not help, look for a policy or a missing licence.",
                code,
            )),
            (Operation::Presences, 400 | 404 | 413 | 500)
            | (Operation::Lookup, 400 | 404 | 413) => Recovery::Split,
            (Operation::Discover, 400 | 404) => Recovery::AskAdministrator(cause(
                "We cannot find that organisation.",
                "Check the name.",
                code,
            )),
            (_, 400..=499) if self.status != 408 => our_fault(code),
            // Redirects, which are never followed, and server errors.
            _ => Recovery::Retry { after },
        }
    }
}

impl MicrosoftError {
    pub(super) fn body(operation: Operation, problem: BadAnswer) -> Self {
        Self::Body { operation, problem }
    }

    pub(super) fn input(operation: Operation, problem: BadInput) -> Self {
        Self::Input { operation, problem }
    }

    /// What was attempted.
    pub fn operation(&self) -> Operation {
        match self {
            Self::Transport { operation, .. }
            | Self::Body { operation, .. }
            | Self::Input { operation, .. } => *operation,
            Self::Status(e) => e.operation,
            Self::OAuth(e) => e.operation,
        }
    }

    /// HTTP status of the refusal, if there was an answer.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Status(e) => Some(e.status),
            Self::OAuth(e) => Some(e.status),
            _ => None,
        }
    }

    /// Why to wait, when a failure passes by itself and more is known of it: what came instead of an answer, or that it passes only
    /// after a time of its own, as a locked account does.
    pub fn passing_cause(&self) -> Option<Cause> {
        let bad = |what: &str| {
            let text = format!("Microsoft does not answer as it should: {what}.");
            Some(cause(
                &text,
                "Nothing to do: we keep trying.",
                String::new(),
            ))
        };
        match self {
            Self::OAuth(e) => {
                let row = e.row();
                let passes = matches!(e.recovery(), Recovery::Retry { .. });
                (passes && row.class == Class::Transient && row.wait.is_some())
                    .then(|| cause(row.text, row.remedy, e.code()))
            }
            Self::Status(e) if (300..400).contains(&e.status) => {
                bad("we are sent elsewhere, and do not go there")
            }
            Self::Transport { source, .. } => match source {
                TransportError::Connect(_) => bad("there is no connection"),
                TransportError::Timeout(Waiting::Head) => bad("nothing comes in time"),
                TransportError::Timeout(_) => bad("the answer does not come to an end in time"),
                TransportError::TooLarge { .. } => bad("the answer is longer than any we can use"),
                TransportError::Interrupted(_) => {
                    bad("the connection breaks before the answer is complete")
                }
                TransportError::Unpackable(_) => bad("what comes cannot be read"),
                TransportError::Forbidden(_) | TransportError::Invalid => None,
            },
            Self::Body { problem, .. } => match problem {
                BadAnswer::NotJson | BadAnswer::Missing(_) => bad("what comes cannot be read"),
                BadAnswer::ForeignLink => bad("we are sent elsewhere, and do not go there"),
                BadAnswer::TooManyPages => bad("the answer has no end"),
            },
            Self::Status(_) | Self::Input { .. } => None,
        }
    }

    /// Whether an answer came that cannot be used.
    pub fn is_bad_answer(&self) -> bool {
        matches!(
            self,
            Self::Body { .. }
                | Self::Transport {
                    source: TransportError::TooLarge { .. } | TransportError::Unpackable(_),
                    ..
                }
        )
    }

    /// The id under which Microsoft finds this event.
    pub fn correlation_id(&self) -> Option<&str> {
        match self {
            Self::Status(e) => e.request_id.as_deref().or(e.client_request_id.as_deref()),
            Self::OAuth(e) => e.correlation_id.as_deref().or(e.trace_id.as_deref()),
            _ => None,
        }
    }

    /// The id we gave the request, where an answer came back to it.
    pub fn client_request_id(&self) -> Option<&str> {
        match self {
            Self::Status(e) => e.client_request_id.as_deref(),
            _ => None,
        }
    }

    /// Whether Microsoft may have done what was asked although we do not know: the answer was lost, or was none.
    pub fn leaves_doubt(&self) -> bool {
        match self {
            Self::Transport { source, .. } => !matches!(
                source,
                TransportError::Connect(_) | TransportError::Forbidden(_) | TransportError::Invalid
            ),
            // What stands before Entra gave up waiting for it.
            Self::Status(e) => matches!(e.status, 502 | 504),
            Self::Body { .. } => true,
            Self::OAuth(_) | Self::Input { .. } => false,
        }
    }

    /// Whether Entra refuses the refresh token as such, and not the account, the consent or a policy: what a token used up by an
    /// exchange that we never heard the end of would bring.
    pub fn refuses_the_token(&self) -> bool {
        const OF_THE_TOKEN: [u64; 5] = [50173, 54005, 70000, 70008, 9_002_313];
        match self {
            Self::OAuth(e) => {
                let known = e.codes.iter().find(|code| aadsts::lookup(**code).is_some());
                e.error == "invalid_grant"
                    && match known {
                        Some(code) => OF_THE_TOKEN.contains(code),
                        None => matches!(e.suberror.as_str(), "" | "bad_token" | "token_expired"),
                    }
            }
            _ => false,
        }
    }

    /// What to do about it.
    pub fn recovery(&self) -> Recovery {
        match self {
            Self::Transport { source, .. } => match source {
                TransportError::Forbidden(_) | TransportError::Invalid => our_fault(String::new()),
                _ => Recovery::Retry { after: None },
            },
            Self::Body { .. } => Recovery::Retry { after: None },
            Self::Status(e) => e.recovery(),
            Self::OAuth(e) => e.recovery(),
            Self::Input { problem, .. } => match problem {
                BadInput::TooMany(_) | BadInput::Credential => our_fault(String::new()),
                BadInput::Tenant => Recovery::AskAdministrator(cause(
                    "We cannot find that organisation.",
                    "Give its domain name or its tenant id.",
                    String::new(),
                )),
                BadInput::PersonalAccounts => Recovery::AskAdministrator(cause(
                    "Personal Microsoft accounts are not supported.",
                    "Use your work account.",
                    String::new(),
                )),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(operation: Operation, status: u16) -> MicrosoftError {
        MicrosoftError::Status(Box::new(StatusError {
            operation,
            status,
            code: "Forbidden".into(),
            request_id: None,
            client_request_id: None,
            retry_after: Some(Duration::from_secs(7)),
            claims: None,
        }))
    }

    fn oauth(operation: Operation, status: u16, error: &str, codes: &[u64]) -> OAuthError {
        OAuthError {
            operation,
            status,
            error: error.into(),
            codes: codes.to_vec(),
            suberror: String::new(),
            claims: None,
            trace_id: None,
            correlation_id: None,
            retry_after: None,
        }
    }

    #[test]
    fn only_a_lost_answer_leaves_doubt() {
        let transport = |source| MicrosoftError::Transport {
            operation: Operation::Refresh,
            source,
        };
        for (error, doubt) in [
            (transport(TransportError::Connect("x".into())), false),
            (transport(TransportError::Timeout(Waiting::Head)), true),
            (transport(TransportError::Interrupted("x".into())), true),
            (status(Operation::Refresh, 503), false),
            (status(Operation::Refresh, 504), true),
            (
                MicrosoftError::body(Operation::Refresh, BadAnswer::NotJson),
                true,
            ),
        ] {
            assert_eq!(error.leaves_doubt(), doubt, "{error}");
        }
    }

    #[test]
    fn a_refusal_of_the_token_is_told_from_one_of_the_account() {
        let refused = |error: &str, codes: &[u64], suberror: &str| {
            let mut refused = oauth(Operation::Refresh, 400, error, codes);
            refused.suberror = suberror.into();
            MicrosoftError::OAuth(Box::new(refused)).refuses_the_token()
        };
        assert!(refused("invalid_grant", &[50173], ""));
        assert!(refused("invalid_grant", &[70000], ""));
        assert!(refused("invalid_grant", &[], "bad_token"));
        assert!(refused("invalid_grant", &[1], ""));
        assert!(!refused("invalid_grant", &[50057], ""), "disabled");
        assert!(!refused("invalid_grant", &[65001], ""), "consent");
        assert!(!refused("invalid_grant", &[700_082], ""), "never used");
        assert!(!refused("invalid_client", &[7_000_215], ""));
        assert!(!status(Operation::Refresh, 400).refuses_the_token());
    }

    #[test]
    fn every_status_of_graph_has_one_meaning() {
        let after = Some(Duration::from_secs(7));
        let presences = |n| status(Operation::Presences, n).recovery();
        for n in [429, 509] {
            assert_eq!(presences(n), Recovery::Throttled { after });
        }
        for n in [302, 408, 502, 503, 504, 507] {
            assert_eq!(presences(n), Recovery::Retry { after }, "{n}");
        }
        for n in [400, 404, 413, 500] {
            assert_eq!(presences(n), Recovery::Split, "{n}");
        }
        assert_eq!(presences(401), Recovery::FreshToken { claims: None });
        assert!(
            matches!(presences(403), Recovery::AskAdministrator(c) if c.code == "Forbidden" && !c.remedy.is_empty())
        );
        for n in [402, 405, 409, 415] {
            assert!(matches!(
                presences(n),
                Recovery::OurFault { for_all: false, .. }
            ));
        }
        assert_eq!(
            status(Operation::Lookup, 500).recovery(),
            Recovery::Retry { after }
        );
    }

    #[test]
    fn refusals_of_entra_are_blamed_on_whom_they_belong_to() {
        let refresh = |e: &str, c: &[u64]| oauth(Operation::Refresh, 400, e, c).recovery();
        let app = |e: &str, c: &[u64]| oauth(Operation::AppToken, 400, e, c).recovery();
        assert!(
            matches!(refresh("invalid_grant", &[700_082]), Recovery::Reauthorize(c) if c.code == "AADSTS700082")
        );
        assert!(matches!(
            refresh("invalid_grant", &[53003]),
            Recovery::AskAdministrator(_)
        ));
        assert!(
            matches!(refresh("invalid_grant", &[1, 2]), Recovery::Reauthorize(c) if c.code == "AADSTS1")
        );
        assert!(
            matches!(refresh("invalid_grant", &[]), Recovery::Reauthorize(c) if c.code == "invalid_grant")
        );
        assert!(matches!(
            app("invalid_grant", &[65001]),
            Recovery::AskAdministrator(_)
        ));
        assert!(matches!(
            app("invalid_client", &[7_000_222]),
            Recovery::OurFault { for_all: true, .. }
        ));
        assert!(matches!(
            app("invalid_client", &[]),
            Recovery::OurFault { for_all: true, .. }
        ));
        assert!(matches!(
            app("unauthorized_client", &[700_016]),
            Recovery::AskAdministrator(_)
        ));
        assert!(matches!(
            app("invalid_scope", &[70011]),
            Recovery::OurFault { for_all: false, .. }
        ));
        assert_eq!(
            app("temporarily_unavailable", &[90055]),
            Recovery::Retry {
                after: Some(Duration::from_mins(2))
            }
        );
        assert_eq!(
            refresh("invalid_grant", &[50053]),
            Recovery::Retry {
                after: Some(Duration::from_hours(1))
            }
        );
    }

    #[test]
    fn a_broken_service_never_costs_a_connection() {
        let e = oauth(Operation::Refresh, 503, "invalid_grant", &[700_082]);
        assert_eq!(e.recovery(), Recovery::Retry { after: None });
        let e = oauth(Operation::Refresh, 429, "invalid_grant", &[]);
        assert_eq!(e.recovery(), Recovery::Throttled { after: None });
    }

    #[test]
    fn a_suberror_sharpens_an_unknown_number() {
        let mut e = oauth(Operation::Refresh, 400, "invalid_grant", &[1]);
        e.suberror = "message_only".into();
        assert!(matches!(e.recovery(), Recovery::AskAdministrator(_)));
        e.suberror = "bad_token".into();
        assert!(matches!(e.recovery(), Recovery::Reauthorize(_)));
    }

    #[test]
    fn no_answer_and_bad_answers_pass() {
        for source in [
            TransportError::Timeout(Waiting::Head),
            TransportError::TooLarge { limit: 1 },
            TransportError::Unpackable("x"),
            TransportError::Connect("refused".into()),
            TransportError::Interrupted("reset".into()),
        ] {
            let e = MicrosoftError::Transport {
                operation: Operation::Presences,
                source,
            };
            assert_eq!(e.recovery(), Recovery::Retry { after: None });
        }
        let e = MicrosoftError::body(Operation::Presences, BadAnswer::NotJson);
        assert!(e.is_bad_answer());
        assert_eq!(e.recovery(), Recovery::Retry { after: None });
    }
}
