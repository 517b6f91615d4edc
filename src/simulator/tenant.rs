//! One tenant: its people, who consented to what, and the handle by which tests and the control API change it.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use uuid::Uuid;

use super::directory::{Directory, Entry, Person, Tell};
use super::world::{Microsoft, RefreshToken, SignedIn};
use crate::model::{TenantId, Timestamp};
use crate::secret::random_token;

/// A tenant to be founded.
#[derive(Debug, Clone, Default)]
pub struct TenantSpec {
    /// Its id; without it one from the seed and the domain.
    pub id: Option<TenantId>,
    /// Its domain, such as `contoso.example`; in lower case.
    pub domain: String,
    /// Its display name.
    pub name: String,
    /// How many people it has.
    pub people: usize,
}

/// A tenant of a simulated Microsoft. Clones are the same tenant. Changes for a UPN nobody has are ignored and answer `false`.
#[derive(Clone)]
pub struct Tenant {
    microsoft: Microsoft,
    cell: Arc<Cell>,
}

/// What the simulator keeps of a tenant.
pub struct Cell {
    pub id: TenantId,
    pub domain: String,
    pub name: String,
    rules: Mutex<Rules>,
    directory: Mutex<Directory>,
    consents: Mutex<HashMap<Uuid, Consent>>,
}

/// A cloud of Microsoft that is not the global one. `entra-oauth.md` §1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NationalCloud {
    /// US Government.
    UsGovernment,
    /// China, operated by 21Vianet.
    China,
}

impl NationalCloud {
    /// All, with their names in the control API.
    pub const ALL: [(&'static str, Self); 2] = [
        ("us-government", Self::UsGovernment),
        ("china", Self::China),
    ];
}

/// What the global cloud says about a tenant of another one; nobody has verified which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NationalDiscovery {
    /// `invalid_tenant`, AADSTS90038 or AADSTS900382.
    Refused,
    /// A document that names the hosts of the other cloud.
    Document,
}

/// What the administrators of a tenant decided, beyond consent.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Ordinary people may not consent to applications.
    pub no_user_consent: bool,
    /// Conditional Access blocks every sign-in and refresh of people.
    pub blocked: bool,
    /// A sign-in ends after this time.
    pub sign_in_every: Option<Duration>,
    /// Applications that are switched off.
    pub disabled_apps: HashSet<Uuid>,
    /// Applications for assigned people only, and who is assigned.
    pub assigned: HashMap<Uuid, HashSet<Uuid>>,
    pub deleted: bool,
    pub cloud: Option<(NationalCloud, NationalDiscovery)>,
}

/// What an application was allowed in a tenant.
#[derive(Debug, Clone, Default)]
pub struct Consent {
    /// Application permissions.
    pub application: Vec<String>,
    /// Delegated permissions for everybody.
    pub delegated: Vec<String>,
    /// Delegated permissions one person gave, by object id.
    pub people: HashMap<Uuid, Vec<String>>,
    pub since: Timestamp,
}

impl Consent {
    /// Whether this person's tokens may carry this permission.
    pub fn delegated_to(&self, person: Uuid, permission: &str) -> bool {
        let own = self.people.get(&person).into_iter().flatten();
        self.delegated
            .iter()
            .chain(own)
            .any(|p| p.eq_ignore_ascii_case(permission))
    }
}

impl Cell {
    pub fn new(id: TenantId, domain: String, name: String, directory: Directory) -> Self {
        Self {
            id,
            domain,
            name,
            rules: Mutex::default(),
            directory: Mutex::new(directory),
            consents: Mutex::default(),
        }
    }

    pub fn directory(&self) -> MutexGuard<'_, Directory> {
        self.directory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn consent(&self, client: Uuid) -> Option<Consent> {
        self.consents().get(&client).cloned()
    }

    /// Adds to what an application may do. The consent counts from the first time; for the application itself, from when it was
    /// first given a permission of its own.
    pub fn extend_consent(&self, client: Uuid, now: Timestamp, change: impl FnOnce(&mut Consent)) {
        let mut consents = self.consents();
        let consent = consents.entry(client).or_insert_with(|| Consent {
            since: now,
            ..Consent::default()
        });
        let had = !consent.application.is_empty();
        change(consent);
        if !had && !consent.application.is_empty() {
            consent.since = now;
        }
    }

    fn consents(&self) -> MutexGuard<'_, HashMap<Uuid, Consent>> {
        self.consents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds what is not there yet, without regard to case.
pub fn merge<'a>(into: &mut Vec<String>, what: impl IntoIterator<Item = &'a str>) {
    for permission in what {
        if !into.iter().any(|p| p.eq_ignore_ascii_case(permission)) {
            into.push(permission.to_owned());
        }
    }
}

impl Tenant {
    pub(super) fn new(microsoft: Microsoft, cell: Arc<Cell>) -> Self {
        Self { microsoft, cell }
    }

    /// Its id, the `tid` of tokens.
    pub fn id(&self) -> TenantId {
        self.cell.id
    }

    /// Its domain.
    pub fn domain(&self) -> &str {
        &self.cell.domain
    }

    /// Its display name.
    pub fn name(&self) -> &str {
        &self.cell.name
    }

    /// Everybody, guests too.
    pub fn people(&self) -> Vec<Person> {
        self.cell
            .directory()
            .all()
            .map(|(_, e)| e.person())
            .collect()
    }

    /// The person with this UPN.
    pub fn person(&self, upn: &str) -> Option<Person> {
        self.cell
            .directory()
            .by_upn(upn)
            .map(super::directory::Entry::person)
    }

    /// What everybody shows now: UPN, availability and activity.
    pub fn shown(&self) -> Vec<(String, String, String)> {
        let (life, now) = (
            self.microsoft.inner.options.life,
            self.microsoft.inner.people_time(),
        );
        let directory = self.cell.directory();
        directory
            .all()
            .filter_map(|(_, entry)| {
                let shown = directory.shown(entry.id, life, now)?;
                Some((entry.person().upn, shown.availability, shown.activity))
            })
            .collect()
    }

    fn tell(&self, upn: &str, tell: Tell) -> bool {
        let now = self.microsoft.inner.people_time();
        self.cell.directory().tell(upn, tell, now)
    }

    /// Shows this, whatever the day says, until cleared. Any text is allowed, also values nobody has heard of.
    pub fn set_presence(&self, upn: &str, availability: &str, activity: &str) -> bool {
        let value = Some((availability.to_owned(), activity.to_owned()));
        self.tell(upn, Tell::Presence(value))
    }

    /// Out of office, or not, with an automatic reply.
    pub fn set_out_of_office(&self, upn: &str, out: bool, message: Option<&str>) -> bool {
        let value = Some((out, message.map(str::to_owned)));
        self.tell(upn, Tell::OutOfOffice(value))
    }

    /// The note a person writes under the name.
    pub fn set_status_message(&self, upn: &str, message: Option<&str>) -> bool {
        self.tell(upn, Tell::StatusMessage(message.map(str::to_owned)))
    }

    /// `office`, `remote`, `timeOff`, `unspecified`, or any other text.
    pub fn set_work_location(&self, upn: &str, location: Option<&str>) -> bool {
        self.tell(upn, Tell::WorkLocation(location.map(str::to_owned)))
    }

    /// Back to living the day.
    pub fn clear_presence(&self, upn: &str) -> bool {
        self.tell(upn, Tell::OutOfOffice(None)) && self.tell(upn, Tell::Presence(None))
    }

    /// Adds a member. Who has the UPN already stays as is.
    pub fn add_person(&self, upn: &str) -> Person {
        let lag = self.microsoft.inner.switches().replication_lag;
        self.cell.directory().add(upn, lag)
    }

    /// Gives a person another UPN. False when nobody has the first or somebody has the second.
    pub fn rename_person(&self, upn: &str, to: &str) -> bool {
        self.cell.directory().rename(upn, to)
    }

    /// Deletes a person.
    pub fn delete_person(&self, upn: &str) -> bool {
        self.cell.directory().delete(upn)
    }

    /// Invites a guest, by the address in the home organisation.
    pub fn add_guest(&self, mail: &str) -> Person {
        self.cell.directory().add_guest(mail)
    }

    fn change(&self, upn: &str, change: impl FnOnce(&mut Entry)) -> bool {
        self.cell.directory().by_upn_mut(upn).map(change).is_some()
    }

    /// Who may consent for everybody. The last of the people a tenant is founded with is one.
    pub fn administrators(&self) -> Vec<Person> {
        let directory = self.cell.directory();
        let all = directory.all().map(|(_, entry)| entry);
        all.filter(|e| e.administrator).map(Entry::person).collect()
    }

    /// Makes somebody an administrator, or an ordinary person again.
    pub fn set_administrator(&self, upn: &str, administrator: bool) -> bool {
        self.change(upn, |entry| entry.administrator = administrator)
    }

    /// The administrator sets a new password, which ends the sessions (AADSTS50173).
    pub fn reset_password(&self, upn: &str) -> bool {
        self.revoke_sessions(upn)
    }

    /// The person changes the password, which ends no session of a confidential client. `entra-oauth.md` §7.
    pub fn change_password(&self, upn: &str) -> bool {
        self.person(upn).is_some()
    }

    /// From now on a second factor is asked for: refresh tokens from sign-ins without one are refused (AADSTS50076).
    pub fn demand_mfa(&self, upn: &str, demanded: bool) -> bool {
        self.change(upn, |entry| entry.mfa = demanded)
    }

    /// From now on a sign-in ends after this time (AADSTS70043).
    pub fn set_sign_in_frequency(&self, every: Option<Duration>) {
        self.cell.rules().sign_in_every = every;
    }

    /// Conditional Access blocks sign-ins and refreshes of people, or no longer (AADSTS53003).
    pub fn block_by_policy(&self, blocked: bool) {
        self.cell.rules().blocked = blocked;
    }

    /// Switches the enterprise application off or on (AADSTS7000112). It keeps its consent.
    pub fn enable_application(&self, client_id: Uuid, enabled: bool) {
        let mut rules = self.cell.rules();
        if enabled {
            rules.disabled_apps.remove(&client_id);
        } else {
            rules.disabled_apps.insert(client_id);
        }
    }

    /// Removes the enterprise application: consent, assignments, and whether it was disabled.
    pub fn remove_application(&self, client_id: Uuid) {
        self.withdraw_consent(client_id);
        let mut rules = self.cell.rules();
        rules.disabled_apps.remove(&client_id);
        rules.assigned.remove(&client_id);
    }

    /// Whether people must be assigned to the application to use it (AADSTS50105). At first nobody is.
    pub fn require_assignment(&self, client_id: Uuid, required: bool) {
        let mut rules = self.cell.rules();
        if required {
            rules.assigned.entry(client_id).or_default();
        } else {
            rules.assigned.remove(&client_id);
        }
    }

    /// Assigns somebody to an application that requires it. False when there is no such person or it does not.
    pub fn assign(&self, client_id: Uuid, upn: &str) -> bool {
        let Some(person) = self.person(upn) else {
            return false;
        };
        let mut rules = self.cell.rules();
        let people = rules.assigned.get_mut(&client_id);
        people.map(|people| people.insert(person.id.0)).is_some()
    }

    /// Deletes the whole tenant (AADSTS90002), or brings it back.
    pub fn set_deleted(&self, deleted: bool) {
        self.cell.rules().deleted = deleted;
    }

    /// Says that the tenant lives in another cloud, and how discovery tells. `None`: in this one.
    pub fn set_cloud(&self, cloud: Option<(NationalCloud, NationalDiscovery)>) {
        self.cell.rules().cloud = cloud;
    }

    /// Blocks the account: no new tokens for it (AADSTS50057).
    pub fn disable_person(&self, upn: &str) -> bool {
        self.enable(upn, false)
    }

    /// Unblocks the account.
    pub fn enable_person(&self, upn: &str) -> bool {
        self.enable(upn, true)
    }

    fn enable(&self, upn: &str, enabled: bool) -> bool {
        self.cell
            .directory()
            .by_upn_mut(upn)
            .map(|entry| entry.enabled = enabled)
            .is_some()
    }

    /// Refresh tokens of this account handed out so far are worth nothing (AADSTS50173).
    pub fn revoke_sessions(&self, upn: &str) -> bool {
        let now = self.microsoft.inner.clock.now();
        let Some(person) = self.person(upn) else {
            return false;
        };
        if let Some(entry) = self.cell.directory().by_upn_mut(upn) {
            entry.sessions_from = now;
        }
        let mut state = self.microsoft.inner.state();
        for token in state.refresh.values_mut() {
            if token.tenant == self.id() && token.person == person.id.0 {
                token.revoked = true;
            }
        }
        true
    }

    /// Consents for the whole organisation: the permissions are the ones it has from now on, besides what people gave themselves.
    pub fn grant_consent(&self, client_id: Uuid, application: &[&str], delegated: &[&str]) {
        let now = self.microsoft.inner.clock.now();
        self.cell.extend_consent(client_id, now, |consent| {
            consent.application = application.iter().map(|p| (*p).to_owned()).collect();
            consent.delegated = delegated.iter().map(|p| (*p).to_owned()).collect();
        });
    }

    /// Removes the application from the tenant: tokens are refused with 403, new ones with an AADSTS code (a switch).
    pub fn withdraw_consent(&self, client_id: Uuid) {
        self.cell.consents().remove(&client_id);
    }

    /// Whether ordinary people may consent. When not, the sign-in page says that an administrator must (AADSTS90094).
    pub fn allow_user_consent(&self, allowed: bool) {
        self.cell.rules().no_user_consent = !allowed;
    }

    /// A refresh token as if this account had signed in and consented to `Presence.Read.All User.ReadBasic.All
    /// offline_access`. For a UPN nobody has, one that is worth nothing.
    pub fn mint_refresh_token(&self, client_id: Uuid, upn: &str) -> String {
        let scopes = [
            "Presence.Read.All",
            "User.ReadBasic.All",
            "offline_access",
            "openid",
            "profile",
        ];
        let token = format!("1.{}", random_token());
        let Some(person) = self.person(upn) else {
            return token;
        };
        let now = self.microsoft.inner.clock.now();
        self.cell.extend_consent(client_id, now, |consent| {
            merge(consent.people.entry(person.id.0).or_default(), scopes);
        });
        let refresh = RefreshToken {
            client: client_id,
            tenant: self.id(),
            person: person.id.0,
            scopes: scopes.map(str::to_owned).into(),
            issued: now,
            signed_in: SignedIn {
                at: now,
                // Whoever is asked for a second factor has passed it.
                mfa: self.cell.directory().by_upn(upn).is_some_and(|e| e.mfa),
            },
            revoked: false,
        };
        self.microsoft
            .inner
            .state()
            .refresh
            .insert(token.clone(), refresh);
        token
    }
}

impl fmt::Debug for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tenant({}, {})", self.cell.domain, self.cell.id)
    }
}
