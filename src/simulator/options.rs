//! How the simulated Microsoft behaves. Every question the references leave open is a switch here, with our best guess as default.

use std::time::Duration;

use url::Url;

/// What a simulated Microsoft is made from.
#[derive(Debug, Clone)]
pub struct Options {
    /// Decides ids, names, days and every random choice that is no secret. The same seed gives the same world.
    pub seed: u64,
    /// Whether people move by themselves.
    pub life: Life,
    /// How it names itself in discovery and in links, for example `http://127.0.0.1:8900`. Without it, from the `Host` of each
    /// request, with `http`.
    pub base_url: Option<Url>,
    /// What the references mark UNVERIFIED.
    pub switches: Switches,
    /// Time of day at which people's day stands when the simulator starts, on a Tuesday; so a demo at night shows a working
    /// morning. Without it people follow the clock, in UTC.
    pub opening: Option<Duration>,
    /// Limits before requests are throttled.
    pub limits: Limits,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 1,
            life: Life::Explicit,
            base_url: None,
            switches: Switches::default(),
            opening: None,
            limits: Limits::default(),
        }
    }
}

/// Whether people move by themselves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Life {
    /// Nothing moves until told; everybody starts as Available.
    Explicit,
    /// People live a seeded day, see [`super::moment`].
    Day {
        /// Simulated seconds per second; 1.0 is a realistic day.
        speed: f64,
    },
}

/// So many units in so much time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Requests, or resource units.
    pub units: u32,
    /// Length of the sliding window.
    pub window: Duration,
}

impl Limit {
    /// `units` in `secs` seconds.
    pub const fn new(units: u32, secs: u64) -> Self {
        Self {
            units,
            window: Duration::from_secs(secs),
        }
    }
}

/// Limits before requests are throttled. Defaults: `microsoft-graph.md` §10, the lower one where sources differ.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Presence requests per app and tenant: 1,500 in 30 s (API pages, 2025-07). The throttling page of 2026-02 says 10,000.
    pub presence: Limit,
    /// Resource units of users per app and tenant. Without it by the size of the tenant: 3,500, 5,000 or 8,000 in 10 s.
    pub users: Option<Limit>,
    /// Everything of one app across all tenants: 130,000 in 10 s.
    pub global: Limit,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            presence: Limit::new(1_500, 30),
            users: None,
            global: Limit::new(130_000, 10),
        }
    }
}

/// What a presence read says about somebody who is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownPerson {
    /// An entry with `PresenceUnknown` (observed for single reads).
    PresenceUnknown,
    /// No entry.
    Omitted,
    /// 400 for the whole request.
    BadRequest,
}

/// What a presence read does with an id that is asked for twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duplicates {
    /// One entry.
    Once,
    /// An entry each time.
    Repeated,
}

/// What a presence read says to an empty list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmptyIds {
    /// 400.
    BadRequest,
    /// 200 with nobody in it.
    Empty,
}

/// How availability and activity are spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Casing {
    /// `InAMeeting`, as all examples show.
    Pascal,
    /// `inAMeeting`, as the current resource page writes.
    Camel,
}

/// What happens to somebody who signs in with a personal account at `organizations`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PersonalAccounts {
    /// Microsoft's own page refuses.
    Refused,
    /// An id token of the tenant of personal accounts.
    IdToken,
}

/// Everything the references mark UNVERIFIED, and behaviour that a tenant or Microsoft can choose.
///
/// `docs/simulator-fidelity.md` lists each with its source.
#[derive(Debug, Clone, Copy)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent questions with two answers"
)]
pub struct Switches {
    /// An id of nobody in this tenant, in a presence read. Default: `PresenceUnknown`.
    pub unknown_person: UnknownPerson,
    /// An id that is no GUID. Default: 400.
    pub not_a_guid: UnknownPerson,
    /// An id twice in a list. Default: once.
    pub duplicates: Duplicates,
    /// An empty list of ids. Default: 400.
    pub empty_ids: EmptyIds,
    /// The presence of a guest. Default: `PresenceUnknown`.
    pub guest: UnknownPerson,
    /// Answers come in random order. Default: yes.
    pub shuffled: bool,
    /// How values are spelled. Default: `PascalCase`.
    pub casing: Casing,
    /// Presence carries `sequenceNumber`. Default: yes.
    pub sequence_number: bool,
    /// Presence carries `statusMessage` and `workLocation`. Default: yes; national clouds may not.
    pub newer_fields: bool,
    /// The list of presences carries `@odata.context`. Default: yes.
    pub presence_context: bool,
    /// `/communications/presences/{id}` wraps its answer in `value`, as an old example shows. Default: no.
    pub wrapped_presence: bool,
    /// Presence requests may be sent inside `$batch`. Default: yes.
    pub presence_in_batch: bool,
    /// A throttled presence request is told how long to wait. Default: yes.
    pub presence_retry_after: bool,
    /// `Retry-After` is a date instead of seconds, which RFC 9110 allows. Default: no.
    pub retry_after_as_date: bool,
    /// `userPrincipalName` can be read and filtered on with `User.ReadBasic.All`. Default: yes.
    pub upn_is_basic: bool,
    /// UPNs are compared without regard to case. Default: yes.
    pub upn_ignores_case: bool,
    /// Highest `$top` for users. Default: 999.
    pub max_top: usize,
    /// How many listings of users miss somebody who was just added. Default: 0.
    pub replication_lag: u32,
    /// The `date` in Graph's errors carries a zone, as the `OpenAPI` description says and no recorded answer shows. Default: no.
    pub error_date_has_zone: bool,
    /// The presence service needs `Content-Type: application/json`. Default: yes.
    pub content_type_needed: bool,
    /// Using a refresh token revokes it. Default: no.
    pub refresh_revokes_old: bool,
    /// Assertions signed with RS256 and named by `x5t` are accepted besides PS256 with `x5t#S256`. Default: yes.
    pub legacy_assertions: bool,
    /// An assertion can be used once. Default: yes.
    pub assertion_once: bool,
    /// Longest time from now to an assertion's `exp`. Default: 11 minutes (10 are documented, one is skew).
    pub assertion_life: Duration,
    /// AADSTS code for client credentials in a tenant that never consented or withdrew. Default: 700016.
    pub no_consent_application: u32,
    /// AADSTS code for a refresh after consent was withdrawn. Default: 65001.
    pub no_consent_delegated: u32,
    /// HTTP status of `invalid_client`. Default: 401.
    pub invalid_client_status: u16,
    /// Life of access tokens in seconds. Default: random from 3,600 to 5,400.
    pub expires_in: Option<u32>,
    /// `expires_in` is a text. Default: no.
    pub expires_in_as_text: bool,
    /// `scope` in the answer names `offline_access` too. Default: no.
    pub echo_offline_access: bool,
    /// `scope` in the answer carries the prefix `https://graph.microsoft.com/`. Default: yes.
    pub scope_prefix: bool,
    /// The redirect back carries `session_state`. Default: yes.
    pub session_state: bool,
    /// Time until a consent is known to the token endpoint. Default: none.
    pub consent_propagation: Duration,
    /// A personal account at `organizations`. Default: refused on Microsoft's page.
    pub personal_accounts: PersonalAccounts,
    /// What stands against an account or the application in the tenant is sent back to the application instead of being shown on
    /// Microsoft's page. Default: no.
    pub refusals_come_back: bool,
    /// Id tokens name the directory roles of the person (`wids`), as our registration asks for. Default: yes.
    pub wids: bool,
    /// So many token requests of one kind for one tenant within five minutes bring AADSTS50196. Default: never.
    pub loop_detection: Option<u32>,
}

impl Default for Switches {
    fn default() -> Self {
        Self {
            unknown_person: UnknownPerson::PresenceUnknown,
            not_a_guid: UnknownPerson::BadRequest,
            duplicates: Duplicates::Once,
            empty_ids: EmptyIds::BadRequest,
            guest: UnknownPerson::PresenceUnknown,
            shuffled: true,
            casing: Casing::Pascal,
            sequence_number: true,
            newer_fields: true,
            presence_context: true,
            wrapped_presence: false,
            presence_in_batch: true,
            presence_retry_after: true,
            retry_after_as_date: false,
            upn_is_basic: true,
            upn_ignores_case: true,
            max_top: 999,
            replication_lag: 0,
            error_date_has_zone: false,
            content_type_needed: true,
            refresh_revokes_old: false,
            legacy_assertions: true,
            assertion_once: true,
            assertion_life: Duration::from_mins(11),
            no_consent_application: 700_016,
            no_consent_delegated: 65_001,
            invalid_client_status: 401,
            expires_in: None,
            expires_in_as_text: false,
            echo_offline_access: false,
            scope_prefix: true,
            session_state: true,
            consent_propagation: Duration::ZERO,
            personal_accounts: PersonalAccounts::Refused,
            refusals_come_back: false,
            wids: true,
            loop_detection: None,
        }
    }
}
