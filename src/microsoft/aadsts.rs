//! What Entra's error numbers mean, as data. `entra-oauth.md` §9.
//!
//! Microsoft warns that numbers and texts change: an unknown number is judged by OAuth's `error` word
//! ([`by_error_word`]), and nobody reads Entra's own texts.

use std::time::Duration;

/// Who can do something about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Nobody: it passes.
    Transient,
    /// Somebody of the customer has to sign in again.
    Reauthorize,
    /// An administrator of the customer's tenant has to change something.
    Administrator,
    /// The person at the keyboard corrects it; at a refresh, where nobody sits, the same as [`Class::Reauthorize`].
    Person,
    /// We: a misconfiguration or an error of ours.
    Ours,
    /// We: the credential of the application, so every tenant is affected.
    OurCredential,
}

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The numbers, without `AADSTS`.
    pub codes: &'static [u64],
    /// Who can do something.
    pub class: Class,
    /// Who can, where nobody sits at the keyboard: at a refresh and at client credentials. `None`: the same.
    pub unattended: Option<Class>,
    /// For operators: what it means.
    pub meaning: &'static str,
    /// For the customer: what happened.
    pub text: &'static str,
    /// For the customer: what to do; empty when there is nothing to do.
    pub remedy: &'static str,
    /// Shortest wait before the next attempt, where backing off as usual is too fast.
    pub wait: Option<Duration>,
}

const TRANSIENT_TEXT: &str =
    "Microsoft's sign-in service is temporarily unavailable; we keep trying.";
/// What the customer reads when the fault is ours.
pub const OURS_TEXT: &str = "There is a problem on our side; our team has been alerted.";
/// What the customer has to do when the fault is ours.
pub const OURS_REMEDY: &str = "You need not do anything.";

const fn row(
    codes: &'static [u64],
    class: Class,
    meaning: &'static str,
    text: &'static str,
    remedy: &'static str,
) -> Row {
    Row {
        codes,
        class,
        unattended: None,
        meaning,
        text,
        remedy,
        wait: None,
    }
}

const fn transient(codes: &'static [u64], meaning: &'static str) -> Row {
    row(codes, Class::Transient, meaning, TRANSIENT_TEXT, "")
}

const fn ours(codes: &'static [u64], meaning: &'static str) -> Row {
    row(codes, Class::Ours, meaning, OURS_TEXT, OURS_REMEDY)
}

const fn credential(codes: &'static [u64], meaning: &'static str) -> Row {
    row(codes, Class::OurCredential, meaning, OURS_TEXT, OURS_REMEDY)
}

impl Row {
    const fn waiting(mut self, wait: Duration) -> Self {
        self.wait = Some(wait);
        self
    }

    const fn unattended(mut self, class: Class) -> Self {
        self.unattended = Some(class);
        self
    }
}

use Class::{Administrator, Person, Reauthorize, Transient};

const RECONNECT: &str = "Please reconnect.";
const EXCLUDE: &str = "A cloud service has no device: ask your administrator to exclude the connected account or this application from the policy.";
const SIGN_IN_LOG: &str = "Ask your administrator to open the sign-in log, and to allow our addresses or exclude this application.";

/// The table. Where the reference names two classes, the first that fits a call without a person at the keyboard.
pub const ROWS: &[Row] = &[
    // §9.1 user sign-in state
    row(
        &[50034],
        Person,
        "account not in this directory",
        "The connected account does not exist in this organisation.",
        "Sign in with an account of your company; if it was deleted, connect again with another account.",
    ),
    row(
        &[50020, 16000, 51004, 50014, 90072],
        Person,
        "external account not present in the tenant",
        "The account belongs to another organisation.",
        "Use your work account of this organisation, or ask your administrator to invite this account.",
    ),
    row(
        &[50053],
        Transient,
        "account locked, or sign-in from a risky address",
        "The connected account is temporarily locked, or the sign-in looked risky.",
        "Wait, or ask your administrator to unblock it.",
    )
    .waiting(Duration::from_hours(1)),
    row(
        &[50055, 50144],
        Reauthorize,
        "password expired",
        "The password of the connected account has expired.",
        "Change it, then reconnect.",
    ),
    row(
        &[50056],
        Person,
        "no password stored, or invalid",
        "The password was not accepted.",
        "Enter the password again or ask your administrator.",
    ),
    row(
        &[50057],
        Administrator,
        "account disabled",
        "The connected account was disabled.",
        "Re-enable it or connect another one.",
    ),
    row(
        &[50126, 50064],
        Person,
        "wrong user name or password",
        "Wrong user name or password.",
        "Sign in again.",
    ),
    row(
        &[50058, 50089],
        Person,
        "no session, or the sign-in took too long",
        "The sign-in was not completed.",
        "Start again.",
    ),
    row(
        &[50059, 50128, 90019],
        Person,
        "no tenant could be determined",
        "Microsoft could not tell your organisation.",
        "Use your full work address.",
    )
    // We name the tenant ourselves then.
    .unattended(Class::Ours),
    row(
        &[50132, 50133, 50173, 50085],
        Reauthorize,
        "grant revoked: password changed or sessions ended",
        "Access was revoked or the password changed.",
        RECONNECT,
    ),
    row(
        &[50135],
        Reauthorize,
        "password change demanded because of risk",
        "Microsoft demands a new password for the connected account.",
        "Change the password, then reconnect.",
    ),
    row(
        &[50097, 50187, 50155],
        Administrator,
        "device authentication required",
        "A policy of your organisation asks for a sign-in from a device.",
        EXCLUDE,
    ),
    row(
        &[50105],
        Administrator,
        "user not assigned to the enterprise application",
        "The connected account is not assigned to this application.",
        "Assign this account to the application in Enterprise applications, or switch assignment off.",
    ),
    // §9.2 MFA and Conditional Access
    row(
        &[50072, 50079],
        Reauthorize,
        "must enrol for MFA",
        "The connected account must register for multi-factor authentication.",
        "Register it, then reconnect.",
    ),
    row(
        &[50074],
        Reauthorize,
        "MFA not passed",
        "The multi-factor check was not completed.",
        "Reconnect and complete it.",
    ),
    row(
        &[50076],
        Reauthorize,
        "MFA needed now",
        "Your organisation now requires multi-factor authentication.",
        "Reconnect once and complete it.",
    ),
    row(
        &[50078],
        Reauthorize,
        "MFA proof too old by policy",
        "The multi-factor check is too old for your organisation's policy.",
        "Reconnect; if this repeats, exempt the connected account from sign-in frequency.",
    ),
    row(
        &[50158],
        Reauthorize,
        "external security challenge unmet",
        "Your organisation asks for an additional check.",
        "Complete it by reconnecting; if it repeats ask your administrator to exempt this application.",
    ),
    row(
        &[50131],
        Administrator,
        "Conditional Access failed",
        "A policy of your organisation blocks this sign-in.",
        SIGN_IN_LOG,
    ),
    row(
        &[53000, 53001, 53002, 530_003],
        Administrator,
        "device not compliant, or application not on the approved list",
        "A policy allows only managed devices or approved applications.",
        EXCLUDE,
    ),
    row(
        &[53003],
        Administrator,
        "blocked by Conditional Access",
        "A policy of your organisation blocks this sign-in.",
        SIGN_IN_LOG,
    ),
    row(
        &[53004],
        Person,
        "MFA registration blocked because of risk",
        "The multi-factor registration was blocked because of risk.",
        "Register from a trusted place.",
    ),
    row(
        &[530_032, 530_035],
        Administrator,
        "blocked by tenant security policy or security defaults",
        "A security policy of your tenant blocks the request.",
        SIGN_IN_LOG,
    ),
    row(
        &[53011],
        Administrator,
        "user blocked, risk in home tenant",
        "The account is blocked because of risk.",
        "Ask the administrator of the account's own organisation.",
    ),
    row(
        &[70043],
        Reauthorize,
        "refresh token ended by sign-in frequency",
        "Your organisation requires a fresh sign-in from time to time.",
        "Reconnect; consider exempting this application.",
    ),
    row(
        &[500_021, 500_022, 50002, 500_212, 500_213],
        Administrator,
        "tenant restrictions or cross-tenant access policy",
        "A network or cross-tenant policy blocks this sign-in.",
        "Ask your administrator to allow this application.",
    ),
    // §9.3 consent and application in the tenant
    row(
        &[65001],
        Reauthorize,
        "no consent for this application, or withdrawn",
        "Access was withdrawn or never granted.",
        "Reconnect and accept, or have an administrator approve.",
    ),
    row(
        &[65004],
        Person,
        "user declined consent",
        "You declined. Nothing was connected.",
        "Start again, or have an administrator approve.",
    ),
    row(
        &[90094],
        Administrator,
        "admin consent required",
        "An administrator has to approve this application.",
        "Send the approval link to your administrator.",
    ),
    row(
        &[90095],
        Administrator,
        "admin consent requested",
        "Your request was sent to your administrators.",
        "Return after approval.",
    ),
    row(
        &[90099],
        Administrator,
        "not authorized for a partner-delegated tenant",
        "The application is not authorized in this tenant.",
        "Ask your administrator to approve it.",
    ),
    ours(
        &[65005, 650_056, 650_057],
        "permissions missing in our registration",
    ),
    row(
        &[650_052],
        Administrator,
        "the tenant lacks the service asked for",
        "Your tenant lacks the required Microsoft service.",
        "Ask your administrator for a Microsoft Teams licence.",
    ),
    ours(
        &[90008, 500_011, 50001],
        "resource or scope not usable: our scope, or the wrong cloud",
    ),
    row(
        &[700_016, 700_011],
        Administrator,
        "our application is not in that tenant",
        "This application was removed from your tenant.",
        "Connect again.",
    ),
    row(
        &[70001, 7_000_112],
        Administrator,
        "application disabled in the tenant; all tenants at once means that Microsoft disabled us",
        "The application is disabled in your tenant.",
        "Enable it: Enterprise applications → Properties → Enabled.",
    ),
    row(
        &[1_000_031],
        Administrator,
        "application cannot be accessed now",
        "The application cannot be used in your tenant now.",
        "Ask your administrator.",
    ),
    ours(
        &[50194, 90130, 90124, 9_001_023],
        "the application is not usable on this authority",
    ),
    row(
        &[90002],
        Administrator,
        "tenant not found: typing error, wrong cloud, or deleted",
        "We cannot find that organisation.",
        "Check the name; if the organisation was deleted, disconnect it.",
    ),
    row(
        &[90038, 900_382, 1_000_104],
        Administrator,
        "tenant of another national cloud",
        "Your organisation is in a national cloud we do not serve here.",
        "Connect through its region.",
    ),
    // §9.4 grants and tokens
    row(
        &[54005],
        Person,
        "code already redeemed",
        "This sign-in was already used.",
        "Start again.",
    ),
    row(
        &[70000],
        Reauthorize,
        "refresh token not valid; seen to pass, so try again once after a minute",
        "Microsoft no longer accepts the connection.",
        RECONNECT,
    ),
    row(
        &[70008],
        Reauthorize,
        "code or refresh token expired or revoked",
        "The connection has expired or was revoked.",
        RECONNECT,
    ),
    row(
        &[700_082],
        Reauthorize,
        "refresh token unused for 90 days: should never happen",
        "The connection was unused for too long.",
        RECONNECT,
    ),
    ours(
        &[700_084],
        "redirect URI registered as a single-page application",
    ),
    ours(
        &[700_005, 501_481, 50147, 501_491],
        "code redeemed wrongly, or PKCE does not fit",
    ),
    ours(
        &[70011, 28002, 28003, 700_022, 700_023],
        "bad scope, or several resources in one request",
    ),
    ours(
        &[70003, 70005, 70007, 700_054],
        "grant, response type or mode not supported",
    ),
    ours(
        &[50013, 500_133, 50027],
        "assertion invalid or out of its time: look at the clock",
    ),
    ours(
        &[50196],
        "loop: the same request too often; stop for 5 minutes, mend the caching",
    )
    .waiting(Duration::from_mins(5)),
    row(
        &[9_002_313],
        Reauthorize,
        "request malformed; also a damaged refresh token",
        "The stored connection is damaged.",
        RECONNECT,
    ),
    ours(
        &[
            90013, 90014, 900_144, 90023, 90100, 90056, 900_561, 50011, 70004, 900_971,
        ],
        "invalid or missing field, verb or redirect URI",
    ),
    // §9.5 our client credentials
    credential(&[7_000_215, 70002], "wrong client secret"),
    credential(&[7_000_222], "client secret or keys expired"),
    credential(
        &[7_000_218, 700_025],
        "credential missing, or sent by a public client",
    ),
    credential(
        &[700_027, 700_030, 50012, 50003],
        "assertion signature or certificate not accepted",
    ),
    // §9.6 transient
    transient(
        &[90033, 90006, 90024, 90012, 90090, 50033, 50087, 40010],
        "service unavailable or timed out",
    ),
    transient(&[90055], "tenant throttled").waiting(Duration::from_mins(2)),
    transient(&[50000, 90036], "token issuance error").waiting(Duration::from_mins(5)),
    transient(
        &[80001, 80002, 80005, 80007, 80014],
        "on-premises authentication agents unreachable",
    ),
];

/// The row of a number.
pub fn lookup(code: u64) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.codes.contains(&code))
}

/// The row for an `error` word whose numbers say nothing. `entra-oauth.md` §3.
pub fn by_error_word(error: &str) -> Row {
    match error {
        "invalid_grant" => row(
            &[],
            Reauthorize,
            "grant unusable",
            "Microsoft no longer accepts the connection.",
            RECONNECT,
        ),
        "interaction_required" | "login_required" => row(
            &[],
            Reauthorize,
            "a person must act",
            "Microsoft asks for a new sign-in.",
            RECONNECT,
        ),
        "consent_required" => row(
            &[],
            Reauthorize,
            "consent missing",
            "Access was withdrawn or never granted.",
            "Reconnect and accept, or have an administrator approve.",
        ),
        // The second is what the older style of admin consent says.
        "access_denied" | "permission_denied" => row(
            &[],
            Reauthorize,
            "declined",
            "You (or your administrator) did not grant access.",
            "Reconnect and accept, or have an administrator approve.",
        ),
        "unauthorized_client" => row(
            &[],
            Administrator,
            "application missing or disabled in the tenant",
            "This application is missing or disabled in your tenant.",
            "Connect again, or enable it: Enterprise applications → Properties → Enabled.",
        ),
        "invalid_tenant" => row(
            &[],
            Administrator,
            "tenant not found",
            "We cannot find that organisation.",
            "Check the name; if the organisation was deleted, disconnect it.",
        ),
        "invalid_client" => credential(&[], "our credential was refused"),
        "invalid_request"
        | "invalid_scope"
        | "invalid_resource"
        | "unsupported_grant_type"
        | "unsupported_response_type" => ours(&[], "our request was refused"),
        // Among them temporarily_unavailable and server_error; of an unknown word we assume the mildest.
        _ => transient(&[], "service unavailable, or an error we do not know"),
    }
}

/// The row for a `suberror`, where it says more than the `error` word. `entra-oauth.md` §3.
pub fn by_suberror(suberror: &str) -> Option<Row> {
    Some(match suberror {
        "bad_token" | "token_expired" | "basic_action" => by_error_word("invalid_grant"),
        "consent_required" => by_error_word("consent_required"),
        "user_password_expired" => *lookup(50055)?,
        "additional_action" | "message_only" => row(
            &[],
            Administrator,
            "cannot be mended by signing in",
            "A policy of your organisation blocks this sign-in.",
            SIGN_IN_LOG,
        ),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_stands_twice() {
        let mut all: Vec<u64> = ROWS.iter().flat_map(|r| r.codes).copied().collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn every_class_has_its_rows() {
        for (code, class) in [
            (90033, Class::Transient),
            (50053, Class::Transient),
            (700_082, Class::Reauthorize),
            (50076, Class::Reauthorize),
            (53003, Class::Administrator),
            (700_016, Class::Administrator),
            (50126, Class::Person),
            (70011, Class::Ours),
            (7_000_222, Class::OurCredential),
        ] {
            assert_eq!(lookup(code).unwrap().class, class, "{code}");
        }
        assert!(lookup(1).is_none());
    }

    #[test]
    fn customers_always_read_what_happened_and_learn_what_to_do_if_they_can() {
        for row in ROWS {
            assert!(
                row.text.ends_with('.') && !row.meaning.is_empty(),
                "{row:?}"
            );
            assert_eq!(
                row.remedy.is_empty(),
                row.class == Class::Transient && row.text == TRANSIENT_TEXT,
                "{row:?}"
            );
        }
    }

    #[test]
    fn unknown_numbers_are_judged_by_the_error_word() {
        for (word, class) in [
            ("invalid_grant", Class::Reauthorize),
            ("interaction_required", Class::Reauthorize),
            ("unauthorized_client", Class::Administrator),
            ("invalid_client", Class::OurCredential),
            ("invalid_scope", Class::Ours),
            ("temporarily_unavailable", Class::Transient),
            ("never_seen", Class::Transient),
        ] {
            assert_eq!(by_error_word(word).class, class, "{word}");
        }
    }
}
