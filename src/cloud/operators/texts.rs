//! Every sentence of the operators' pages, in one place: a table of its own, made as the customers' one is.

use crate::cloud::web::texts::texts;

texts! {
    /// On every page.
    common: Common {
        skip: "Skip to content",
        service: "Presence operations",
        overview: "Overview",
        suites: "Suites",
        alerts: "Alerts",
        audit: "Audit",
        sign_out: "Sign out",
        viewer: "can see, not act",
        as_of: "As of",
        reload: "Reload",
        stale: "No answer from the service. What you see is old.",
        copy: "Copy",
        copied: "Copied",
        back: "Back",
        cancel: "Cancel",
        nothing: "Nothing here.",
        never: "never",
        footer: "No tokens and no names of watched people are shown on these pages.",
    }
    /// Signing in.
    sign_in: SignIn {
        title: "Sign in",
        lead: "For those who run this service.",
        password: "Operators' password",
        go: "Sign in",
        wrong: "That is not the password. After a few wrong ones you have to wait, longer each time.",
        nobody: "Nobody can sign in here yet. Make a password with `presence-cloud operators password` and name its file in the configuration, under [operators] password_file; or name an issuer of OpenID Connect under [oidc].",
    }
    /// Signing in at the issuer.
    issuer: Issuer {
        lead: "Your organisation's sign-in says who you are and what you may do here.",
        go: "Sign in with {}",
        outage: "{} cannot be used just now, so nobody can sign in with it. Try again in a minute. If it stays like this, the log of this service says why; the service itself and its command line go on working.",
        over: "This sign-in is over: it took too long, was used already, or began in another browser. Begin again.",
        refused: "{} did not sign you in and says: {}.",
        not_accepted: "What came back from {} was not accepted. Begin again. If that happens again, the log of this service says why.",
        not_allowed: "You have signed in at {} as {}, but that account is not allowed to see these pages. Ask whoever runs this service to add it to one of the groups in its configuration.",
        out: "You are signed out",
        out_text: "Nobody is signed in to these pages in this browser any more.",
        out_at: "You may still be signed in at {}. On a computer that others use, sign out there too.",
        out_go: "Sign out at {}",
        again: "Sign in again",
    }
    /// What went wrong.
    failures: Failures {
        forbidden: "Not allowed",
        forbidden_text: "This was refused: either the form did not come from one of our pages, or you may see and not act. Nothing was changed.",
        expired: "Too old",
        expired_text: "The page this came from is too old. Go back, reload it, and try again. Nothing was changed.",
        not_found: "Not there",
        not_found_text: "There is no such page, tenant or suite.",
        bad_address: "Not understood",
        bad_address_text: "Something in this address is written as none of our pages writes it. Begin again at the overview.",
        refused: "Not done",
        not_signed_in: "You are not signed in",
        wait: "Please wait",
        wait_text: "Too many tries. The next one is possible in {} s.",
        ours: "Something went wrong here",
        ours_text: "This is an error of ours; it stands in the log of the service.",
    }
    /// The overview.
    overview: Overview {
        title: "Overview",
        alerts: "Open alerts",
        alerts_all: "All {} open alerts",
        cure: "What to do",
        credentials: "Our own credentials",
        ends: "ends",
        ends_unknown: "does not tell when it ends",
        search: "Name, id or domain",
        attention: "Needs",
        attention_any: "anything or nothing",
        attention_now: "somebody now",
        attention_watch: "an eye on it",
        attention_soon: "something soon",
        attention_none: "nothing",
        attention_resting: "nothing: at rest",
        connection: "Connected by",
        connection_any: "any way",
        organisation: "organisation",
        service_account: "service account",
        apply: "Show",
        all: "All",
        shown: "{} shown",
        show_all: "Show all {}",
        none: "No tenant fits.",
        tenant: "Tenant",
        health: "Health",
        cadence: "Read every",
        wanted: "wanted {}",
        budget: "Budget",
        coverage: "Covered",
        suites: "Suites",
        token: "Token given",
        refresh: "Refresh token renewed",
        open_alerts: "Alerts",
        throttled: "throttled",
        not_served: "not read",
    }
    /// One tenant.
    tenant: Tenant {
        since: "since {}",
        cause: "Why",
        cure: "What to do",
        code: "Microsoft's code",
        correlation: "Correlation id",
        facts: "Facts",
        id: "Tenant id",
        domain: "Domain",
        connection: "Connected by",
        authorized: "Authorized",
        read_every: "Read every",
        budget: "Budget",
        budget_text: "{} presence requests in the last window",
        last_read: "Last read",
        throttled: "Throttled since",
        next_call: "Next call",
        token: "Access token",
        token_given: "given {}",
        token_ends: "ends {}",
        token_failures: "{} renewals have failed in a row",
        refresh: "Refresh token",
        refresh_stored: "last renewed {}",
        most: "Most people per suite",
        shares: "Passed on besides",
        share_status: "status messages",
        share_location: "work locations",
        share_nothing: "nothing",
        coverage: "Coverage",
        coverage_text: "of those watched are covered",
        none_read: "Not read: nobody of the {} who are watched is covered just now.",
        nobody_watched: "Nobody is watched.",
        resolving: "{} are being looked up",
        reasons: "Not covered",
        people: "Who, shortened",
        suites: "Suites",
        suite: "Suite",
        state: "State",
        version: "Version",
        seen: "Last seen",
        watched: "Watches",
        lag: "Lag",
        connected: "connected",
        away: "not connected",
        revoked: "revoked",
        now: "now",
        over_plan: "{} over plan",
        revoke: "Revoke",
        alerts: "Alerts",
        closed: "over at {}",
        history: "How its health went",
        audit: "What was done",
        actions: "Actions",
        pause: "Pause",
        pause_text: "Stops reading. Its suites are told.",
        resume: "Resume",
        resume_text: "Goes on reading.",
        refresh_now: "Refresh now",
        refresh_text: "Tries the connection at once and reads everybody anew.",
        link: "Make a link",
        link_text: "A secret link by which the customer authorizes the connection anew. Good for a week.",
        send: "Send a link",
        send_to: "E-mail address",
        send_text: "The same, by mail. The address is not kept.",
        invite: "Invite a suite",
        invite_text: "A one-time code by which a suite enrols.",
        offboard: "Off-board",
        offboard_text: "Destroys its key and tokens, for good.",
    }
    /// What was done.
    done: Done {
        paused: "Paused. Its suites are being told.",
        resumed: "Resumed. Reading goes on.",
        refreshed: "The connection is tried at once.",
        sent: "The link was sent.",
        revoked: "Revoked. Its streams end within seconds.",
    }
    /// Before and after what cannot be undone, and secrets.
    act: Act {
        link: "Link for {}",
        link_text: "Send this to the customer by a safe way. Whoever opens it can see the tenant's status and authorize its connection anew. It is shown only now.",
        until: "Good until {}.",
        invite: "Enrolment code for {}",
        invite_text: "Good for one suite, and shown only now.",
        command: "On the machine beside the suite, and then type the code:",
        ini: "Or in the suite's Presence.ini:",
        revoke: "Revoke {}?",
        revoke_text: "Its streams end within seconds, and its key is never accepted again. To come back it has to enrol with a new code.",
        revoke_go: "Revoke for good",
        offboard: "Off-board {}?",
        offboard_text: "Its data key and tokens are destroyed and its suites revoked. Nothing brings them back; the organisation would have to be connected anew.",
        offboard_type: "To confirm, type the name of the organisation exactly: {}",
        offboard_go: "Off-board for good",
        receipt: "Off-boarded",
        receipt_text: "Keep this receipt; it is shown only now.",
    }
    /// The suites.
    suites: Suites {
        title: "Suites",
        search: "Suite, tenant or version",
        tenant: "Tenant",
        none: "No suite fits.",
    }
    /// The alerts.
    alerts: Alerts {
        title: "Alerts",
        none: "There was no alert.",
        receivers: "Who is told",
        receivers_none: "Nobody is told yet. Add a webhook or a mailbox to the configuration: [[alerts.webhook]], [[alerts.mail]].",
        least: "from {} on",
        test: "Send a test to all",
        arrived: "The test has arrived.",
        tested: "Test messages",
    }
    /// The audit log.
    audit: Audit {
        title: "Audit log",
        lead: "What was done, by whom, newest first. Entries are added and never changed.",
        number: "No.",
        at: "When",
        who: "Who",
        what: "What",
        tenant: "Tenant",
        detail: "Details",
        only: "Only {}",
        everybody: "Show all tenants",
        earlier: "Earlier entries",
        newest: "Newest entries",
        csv: "Export as CSV",
        jsonl: "Export as JSON lines",
    }
}

impl Texts {
    /// A sentence with something in it.
    pub fn fill(text: &str, value: impl std::fmt::Display) -> String {
        text.replacen("{}", &value.to_string(), 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sentence_says_something() {
        for (name, text) in all(&ENGLISH) {
            assert!(!text.trim().is_empty(), "{name}");
            assert!(!text.contains("  "), "{name}");
        }
        assert_eq!(ENGLISH.language, "en");
    }
}
