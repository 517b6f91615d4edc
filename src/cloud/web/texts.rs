//! Every sentence of the pages, in one place. A language is another [`Texts`]; a missing sentence does not compile.
//!
//! `{}` is where a name or a figure goes. What Microsoft's refusals mean stands in [`crate::microsoft::aadsts`].

macro_rules! texts {
    ($($(#[$doc:meta])* $group:ident: $type:ident { $($name:ident: $text:literal,)* })*) => {
        /// All sentences in one language.
        #[derive(Debug)]
        pub struct Texts {
            /// For `<html lang>`.
            pub language: &'static str,
            $($(#[$doc])* pub $group: $type,)*
        }
        $($(#[$doc])* #[allow(missing_docs, reason = "the English sentence says it")] #[derive(Debug)]
        pub struct $type { $(pub $name: &'static str,)* })*
        /// English.
        pub static ENGLISH: Texts = Texts {
            language: "en",
            $($group: $type { $($name: $text,)* },)*
        };
        /// Every sentence with its name, for tests.
        #[cfg(test)]
        pub fn all(texts: &Texts) -> Vec<(&'static str, &'static str)> {
            vec![$($((concat!(stringify!($group), ".", stringify!($name)), texts.$group.$name),)*)*]
        }
    };
}
pub(in crate::cloud) use texts;

texts! {
    /// On every page.
    common: Common {
        skip: "Skip to content",
        support: "Questions?",
        footer: "Reads who is free in Microsoft Teams, for your phone system. Reads nothing else.",
        simulated: "This is a demonstration with a simulated Microsoft. Nothing here is real.",
        step: "Step {} of 4",
        step_1: "Your organisation",
        step_2: "Connection",
        step_3: "Authorize",
        step_4: "Complete",
        copy: "Copy",
        copied: "Copied",
        details: "Details for your administrator",
        code: "Code",
        correlation: "Correlation id",
        time: "Time",
        find_it: "Your administrator finds this event in the Entra admin centre under Monitoring & health, Sign-in logs.",
    }
    /// The form.
    start: Start {
        title: "Connect your organisation",
        lead: "Let your phone system show who is free in Microsoft Teams. It takes about two minutes.",
        reads_title: "What will be read",
        reads_1: "Whether a person is available, busy, away or offline, and since when.",
        reads_2: "Of exactly those people your phone system watches, nobody else.",
        reads_3: "Their name at sign-in and their Microsoft id, to find them.",
        never_title: "What will never be read",
        never_1: "Messages, calls, calendars, files, mail, contacts, photos.",
        never_2: "Status messages and work locations are left out unless you ask for them.",
        never_3: "Nothing is written or changed in Microsoft 365. No password is ever seen by us.",
        role_title: "Who has to approve",
        role_1: "For the organisation connection: a Global Administrator or a Privileged Role Administrator, once.",
        role_2: "For the service-account connection: the account itself; some organisations ask for an administrator's approval, too.",
        you: "About you",
        first_name: "First name",
        last_name: "Last name",
        company: "Company",
        email: "Work e-mail",
        organisation: "About your Microsoft organisation",
        tenant: "Microsoft tenant",
        tenant_hint: "Your domain, for example contoso.com, or the tenant id.",
        administrator: "Administrator's e-mail",
        administrator_hint: "Only if somebody else will authorize. You get a link for that person; we send no e-mail.",
        optional: "optional",
        next: "Continue",
        problems: "Please look at these entries:",
        to_status: "See your connection",
        privacy: "We keep your entries encrypted, only to set up and support this connection.",
    }
    /// What is wrong with an entry of the form.
    flaws: Flaws {
        missing: "Please fill this in.",
        too_long: "This is longer than we can take.",
        no_address: "This does not look like an e-mail address.",
        no_tenant: "This is neither a domain such as contoso.com nor a tenant id.",
        unknown_tenant: "Microsoft does not know an organisation by this name. Check the spelling, or take the tenant id from the Entra admin centre, Overview.",
        personal: "This belongs to personal Microsoft accounts, which have no Teams presence for organisations.",
        national: "This organisation is in one of Microsoft's national clouds (US Government or China), which this service does not reach. Ask us for an installation in that cloud.",
        microsoft_down: "Microsoft does not answer right now, so the organisation could not be checked. Your entries are kept: please try again in a minute.",
    }
    /// The choice of the connection.
    connection: Connection {
        title: "Choose the connection",
        lead: "Both read the same two things: presence, and basic profiles to find people.",
        recommended: "Recommended",
        organisation: "Organisation connection",
        organisation_1: "An administrator approves once for the whole organisation.",
        organisation_2: "No service account, no licence, no password, no multi-factor trouble.",
        organisation_3: "Goes on working when people leave.",
        organisation_role: "Needs: Global Administrator or Privileged Role Administrator.",
        account: "Service-account connection",
        account_1: "You sign in as an account that may read presence, and we read as that account.",
        account_2: "Permissions: Presence.Read.All, User.ReadBasic.All, and to stay signed in (offline_access).",
        account_3: "Multi-factor: complete it when you sign in now. Afterwards nobody has to be there, unless a policy demands a fresh sign-in (sign-in frequency) or only allows managed devices or certain places: exempt this account or this application from those.",
        account_role: "Needs: the account; in some organisations an administrator's approval.",
        next: "Continue",
        nothing: "Please choose one of the two.",
        not_admin: "You are not the administrator?",
        not_admin_text: "Choose a connection and continue: on the next page you get a link and a text to forward.",
    }
    /// The page of the blue button.
    authorize: Authorize {
        title: "Authorize",
        greeting: "Hello {},",
        greeting_nobody: "Hello,",
        again: "authorize the connection of {} anew.",
        first: "connect {} to your phone system.",
        asked_by: "Requested by {}. If you do not know this person, close this page.",
        application: "Application",
        may: "It may",
        may_presence: "read the presence of people in your organisation",
        may_users: "read basic profiles, to find people by their name at sign-in",
        may_stay: "stay signed in as the account you choose",
        may_not: "It may not change anything, and reads only people your phone system watches.",
        where_to: "You sign in at Microsoft, not here. We never see a password.",
        organisation_hint: "Sign in as an administrator, and approve for your organisation. Microsoft then asks once more who you are: choose the same account.",
        account_hint: "Sign in as the account that may read presence: usually a service account, not your own.",
        button: "AUTHORIZE",
        done: "AUTHORIZED",
        done_text: "Microsoft has confirmed {} and answered a test read. Nothing is active yet: complete the request.",
        waiting: "WAITING FOR MICROSOFT",
        waiting_text: "You have approved. Microsoft is still spreading the approval to all of its systems; this takes seconds, rarely minutes. We keep trying until {}.",
        check: "Check now",
        complete: "COMPLETE REQUEST",
        not_yet: "Possible as soon as the authorization is confirmed.",
        forward_title: "Somebody else has to do this?",
        forward_text: "Send this text to your administrator. The link leads to this page, is good for seven days, and ends with the completion.",
        forward_mail: "Hello,\n\nour phone system should show who is free in Microsoft Teams. Please approve this for our organisation ({domain}):\n\n{link}\n\nThe page says what is read (presence of the people our phone system watches, and basic profiles to find them) and what is not. It needs {role}. It takes two minutes, you sign in at Microsoft only, and at the end you get a code for our phone system: please send it to me.\n\nThank you\n{name}",
        role_organisation: "a Global Administrator or a Privileged Role Administrator, once",
        role_account: "the sign-in of the service account that may read presence",
        change: "Choose another connection",
        elsewhere: "It was authorized in another browser. Only the person who authorized can complete it.",
    }
    /// The end of the onboarding.
    complete: Complete {
        title: "Your organisation is connected",
        lead: "{} is active. One thing is left: connect the phone system.",
        code_title: "Enrolment code for your phone system",
        code_text: "Shown once, good for one phone system until {}. A second one gets a code of its own.",
        command: "On the machine beside the phone system, run",
        command_then: "and enter the code when asked.",
        ini: "Or paste these lines into Presence.ini and run: presence-agent enroll --ini Presence.ini",
        status_title: "See how it is, later",
        status_text: "Sign in with the account you used now, or keep this secret link. Who has it sees the state of the connection and can add a phone system.",
        status_page: "Open the status page",
        again_title: "Authorized anew",
        again_lead: "The connection of {} is tried at once. Your phone systems go on by themselves; nothing has to be done there.",
        already_title: "This request is complete",
        already_text: "It was completed before, and its enrolment code was shown then. On the status page you can make a new one.",
    }
    /// The customer's status page.
    status: Status {
        title: "Connection of {}",
        sign_in_title: "See your connection",
        sign_in_text: "Sign in with the Microsoft account that authorized the connection, or use the secret link you were given.",
        sign_in: "Sign in with Microsoft",
        connected: "Connected",
        pending: "Not read yet",
        degraded: "Trouble, we keep trying",
        reauthorize: "Needs a new authorization",
        administrator: "Needs your administrator",
        suspended: "Paused",
        since: "since {}",
        pending_text: "Presence is read as soon as a phone system watches somebody.",
        connected_text: "Presence arrives, everybody is read every {}.",
        connected_idle: "Everything works. Nobody is watched right now.",
        cure: "What to do",
        coverage: "Coverage",
        coverage_all: "All {} people your phone systems watch are monitored.",
        coverage_some: "{} people your phone systems watch are monitored.",
        coverage_none: "Your phone systems watch nobody yet.",
        coverage_rest: "The phone system's engineer sees each of the others with its reason: presence-agent watch.",
        resolving: "still being looked up",
        not_covered: "not covered",
        suites: "Phone systems",
        suites_none: "None yet. Add one to get an enrolment code.",
        suite_on: "connected now",
        suite_off: "not connected",
        suite_since: "enrolled {}",
        add: "Add a phone system",
        add_text: "Gives a one-time enrolment code.",
        again: "Authorize again",
        again_text: "After a change on your side, or to use another account.",
        link: "New secret link",
        link_text: "All earlier links stop working.",
        link_new: "Your new secret link to this page. Earlier ones no longer work.",
        disconnect: "Disconnect",
        disconnect_text: "Ends the connection for good.",
        connection: "How it is connected",
        organisation: "Organisation connection: approved by an administrator",
        account: "Service account",
        authorized_by: "Authorized by",
        authorized_at: "Authorized",
        domain: "Microsoft tenant",
        sign_out: "Sign out",
        refresh: "Refresh",
        as_of: "As of {}",
        by_link: "You came by a secret link.",
    }
    /// Disconnecting.
    disconnect: Disconnect {
        title: "Disconnect {}?",
        lead: "This cannot be undone. To come back you connect anew, and every phone system is enrolled anew.",
        what_1: "All credentials of your organisation are destroyed.",
        what_2: "All its phone systems ({}) are revoked; their consoles show nothing more from Teams within seconds.",
        what_3: "Your entries are deleted.",
        confirm: "Type {} to confirm",
        wrong: "That is not the name; nothing was done.",
        button: "Disconnect for good",
        keep: "Keep the connection",
        sign_in: "To disconnect, sign in with the account that authorized the connection.",
        done: "Disconnected",
        done_lead: "{} is no longer connected. Please keep this receipt.",
        receipt: "Receipt",
        receipt_tenant: "Tenant",
        receipt_time: "Time",
        receipt_keys: "Data keys destroyed",
        receipt_tokens: "Refresh tokens deleted",
        receipt_suites: "Phone systems revoked",
        receipt_codes: "Enrolment codes deleted",
        entra: "One thing only you can do: remove the application in the Entra admin centre under Enterprise applications. That withdraws the approval at Microsoft, too.",
    }
    /// Outcomes that have no code of Microsoft's, and the headings of those that have.
    outcomes: Outcomes {
        again: "Try again",
        start: "Start again",
        forward: "Ask your administrator",
        to_status: "Open the status page",
        choose: "Choose another connection",
        home: "To the start",
        next: "What to do",
        declined: "You declined",
        declined_text: "Access was not granted. Nothing was connected and nothing was changed.",
        declined_next: "Try again and accept, or let an administrator approve.",
        wrong_organisation: "That account belongs to another organisation",
        wrong_organisation_text: "You signed in with an account that is not of {}. Nothing was connected.",
        wrong_organisation_next: "Try again and choose an account of that organisation. Microsoft offers 'Use another account'.",
        personal: "That is a personal account",
        personal_text: "Personal Microsoft accounts have no Teams presence of an organisation.",
        personal_next: "Try again with your work account.",
        guest: "That account is a guest",
        guest_text: "Guests of an organisation cannot look up its people, so nothing could be read with this account.",
        guest_next: "Try again with an account that belongs to the organisation itself.",
        permission: "A permission is missing",
        permission_text: "Microsoft did not grant {}. Without it presence cannot be read.",
        permission_next: "Try again and accept everything that is listed. If it is not listed, let an administrator approve.",
        no_lasting: "Microsoft gave no lasting access",
        no_lasting_text: "The sign-in worked, but not for longer than an hour: the permission to stay signed in (offline_access) is missing.",
        no_lasting_next: "Try again and accept everything, or choose the organisation connection.",
        not_administrator: "An administrator has to approve",
        not_administrator_text: "The account that signed in is not an administrator who may approve for the organisation.",
        not_administrator_next: "Send the link to your administrator, or choose the service-account connection.",
        administrator: "An administrator has to act",
        policy: "Blocked by a policy",
        mfa: "The multi-factor check is not complete",
        account: "There is trouble with the account",
        sign_in: "The sign-in did not work",
        refused: "Microsoft refuses access",
        refused_text: "Microsoft refused the test read: a permission is missing, was withdrawn, or is blocked by a policy.",
        refused_next: "Try again, and approve everything that is listed. If it repeats, ask your administrator about policies for this application.",
        ours: "The problem is on our side",
        ours_text: "Something in our set-up is wrong. You did nothing wrong, and nothing was connected.",
        ours_next: "Please try again later. If it lasts, tell us the code below.",
        down: "Microsoft does not answer",
        down_text: "Microsoft's service is not available right now. Nothing was connected.",
        down_next: "Please try again in a few minutes; your entries are kept.",
        expired: "This page has expired",
        expired_text: "For your safety a page is good for half an hour without use, and a sign-in for ten minutes. Or the link was not complete.",
        expired_next: "Start again; nothing was lost at Microsoft.",
        used: "This link has been used",
        used_text: "The request it belongs to is complete, or has expired.",
        used_next: "To see the connection, open the status page.",
        connected: "This organisation is connected already",
        connected_text: "{} is connected. It can only be changed by the account that authorized it, or with its secret link.",
        connected_next: "Open the status page. If the account is gone and the link is lost, ask us for a new link.",
        not_yours: "There is nothing to see for this account",
        not_yours_text: "No connection was authorized by the account you signed in with.",
        not_yours_next: "Sign in with the account that authorized the connection, use its secret link, or connect your organisation.",
        not_proven: "The sign-in could not be verified",
        not_proven_text: "What came back from the sign-in does not prove who you are. Nothing was connected.",
        not_proven_next: "Start again. If it repeats, tell us the time and the code below.",
        too_many: "Too many attempts",
        too_many_text: "More was begun from your network, or for your organisation, than we allow.",
        too_many_next: "Please wait a minute and try again. Enrolment codes: use those you have; unused ones end after a week.",
        forbidden: "This request was refused",
        forbidden_text: "It did not come from a page of this site.",
        forbidden_next: "Start again from the first page.",
        not_found: "There is no such page",
        not_found_text: "The address is wrong or the page has moved.",
        not_found_next: "Go to the start.",
        internal: "Something went wrong",
        internal_text: "This is our fault, and our team has been alerted. Nothing was changed.",
        internal_next: "Please try again in a minute.",
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
    fn every_sentence_says_something_and_has_at_most_one_gap() {
        for (name, text) in all(&ENGLISH) {
            assert!(!text.trim().is_empty(), "{name}");
            assert!(text.matches("{}").count() <= 1, "{name}");
            assert_eq!(text.trim(), text, "{name}");
        }
        assert_eq!(Texts::fill("a {} c", 7), "a 7 c");
    }
}
