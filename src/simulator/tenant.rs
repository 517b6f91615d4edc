//! One tenant: its people, who consented to what, and the handle by which tests and the control API change it.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use super::directory::{Directory, Person, Tell};
use super::world::{Microsoft, RefreshToken};
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
    /// Whether ordinary people may consent to applications.
    pub user_consent: AtomicBool,
    directory: Mutex<Directory>,
    consents: Mutex<HashMap<Uuid, Consent>>,
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
            user_consent: AtomicBool::new(true),
            directory: Mutex::new(directory),
            consents: Mutex::default(),
        }
    }

    pub fn directory(&self) -> MutexGuard<'_, Directory> {
        self.directory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub fn consent(&self, client: Uuid) -> Option<Consent> {
        self.consents().get(&client).cloned()
    }

    /// Adds to what an application may do; the consent counts from the first time.
    pub fn extend_consent(&self, client: Uuid, now: Timestamp, change: impl FnOnce(&mut Consent)) {
        let mut consents = self.consents();
        let consent = consents.entry(client).or_insert_with(|| Consent {
            since: now,
            ..Consent::default()
        });
        change(consent);
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
        self.cell.user_consent.store(allowed, Ordering::Relaxed);
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
