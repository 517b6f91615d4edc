//! Connecting an organisation, step by step, without any page: what is asked, checked, tried and stored.
//!
//! Invariants: a tenant is bound only by a verified sign-in of its own, and confirmed by a token call for that tenant; nothing a
//! browser says about a tenant is believed. Only who has signed in may complete. An organisation that is connected already is
//! authorized anew only by its own people ([`OnboardingRow::reconnects`]). Names and addresses are stored sealed.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;
use uuid::Uuid;

use super::admin::{DEFAULT_MAX_WATCHED, first_refresh_token};
use super::store::{
    ConnectionKind, ConnectionRow, NewOnboarding, NewTenant, OnboardingRow, OnboardingStep, Store,
    StoreError, TenantRow, TenantStatus,
};
use crate::clock::Clock;
use crate::microsoft::entra::{Ask, IdTokenError, RedeemError, SignIn, SignedIn};
use crate::microsoft::{AccessToken, Entra, Graph, MicrosoftError, Recovery};
use crate::model::{TenantId, Timestamp, Upn, UserId};
use crate::secret::{DataKey, KeyRing, SealError, SealedAt, Secret};

/// The permissions without which presence cannot be read. `security-and-faults.md` §3.
pub const PERMISSIONS: [&str; 2] = ["Presence.Read.All", "User.ReadBasic.All"];

/// An onboarding, and a link to forward it, is good for so long.
pub const LIFE: Duration = Duration::from_hours(7 * 24);

/// Directory roles that may consent for an organisation: global, privileged role, application and cloud application
/// administrator. Looked at only where Microsoft tells roles.
const ADMINISTRATORS: [Uuid; 4] = [
    Uuid::from_u128(0x62e9_0394_69f5_4237_9190_0121_7714_5e10),
    Uuid::from_u128(0xe861_1ab8_c189_46e8_94e1_6021_3ab1_f814),
    Uuid::from_u128(0x9b89_5d92_2cd3_44c7_9d02_a6ac_2d5e_a5c3),
    Uuid::from_u128(0x158c_047a_c907_4556_b7ef_4465_51a6_b5f7),
];

/// What a person enters to connect an organisation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Wish {
    /// First name.
    pub first_name: String,
    /// Last name.
    pub last_name: String,
    /// Name of the company.
    pub company: String,
    /// Work e-mail address.
    pub email: String,
    /// Domain or id of the Microsoft tenant.
    pub tenant: String,
    /// E-mail address of the administrator who will authorize; empty: the person itself.
    pub administrator: String,
}

/// A field of a [`Wish`], as the form names it.
pub type Field = &'static str;

/// What is wrong with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// Nothing was entered.
    Missing,
    /// More characters than any real one has.
    TooLong,
    /// No e-mail address.
    NoAddress,
    /// Neither a domain nor an id.
    NoTenant,
    /// Microsoft does not know the organisation.
    UnknownTenant,
    /// The tenant of personal accounts.
    Personal,
    /// An organisation of a national cloud, which this installation does not read.
    NationalCloud,
}

/// Longest entry, in characters.
const MAX_ENTRY: usize = 100;

/// Longest address and domain, in characters.
const MAX_ADDRESS: usize = 253;

impl Wish {
    /// Without blanks around entries; a tenant in lower case, without what people paste along.
    #[must_use]
    pub fn tidied(&self) -> Self {
        let tidy = |text: &str| {
            let printable: String = text.chars().filter(|c| !c.is_control()).collect();
            printable.trim().to_owned()
        };
        let tenant = tidy(&self.tenant).to_lowercase();
        let tenant = tenant
            .trim_start_matches("https://")
            .trim_start_matches("http://")
            .trim_start_matches("www.")
            .trim_start_matches('@')
            .trim_end_matches('/');
        // Who enters his address means its domain.
        let tenant = tenant.rsplit_once('@').map_or(tenant, |(_, domain)| domain);
        Self {
            first_name: tidy(&self.first_name),
            last_name: tidy(&self.last_name),
            company: tidy(&self.company),
            email: tidy(&self.email),
            tenant: tenant.to_owned(),
            administrator: tidy(&self.administrator),
        }
    }

    /// What is wrong with it, before anybody is asked.
    pub fn flaws(&self) -> Vec<(Field, Flaw)> {
        let mut flaws = Vec::new();
        for (field, entry) in [
            ("first_name", &self.first_name),
            ("last_name", &self.last_name),
            ("company", &self.company),
        ] {
            if entry.is_empty() {
                flaws.push((field, Flaw::Missing));
            } else if entry.chars().count() > MAX_ENTRY {
                flaws.push((field, Flaw::TooLong));
            }
        }
        for (field, entry, needed) in [
            ("email", &self.email, true),
            ("administrator", &self.administrator, false),
        ] {
            if entry.is_empty() {
                if needed {
                    flaws.push((field, Flaw::Missing));
                }
            } else if entry.chars().count() > MAX_ADDRESS {
                flaws.push((field, Flaw::TooLong));
            } else if !is_address(entry) {
                flaws.push((field, Flaw::NoAddress));
            }
        }
        if self.tenant.is_empty() {
            flaws.push(("tenant", Flaw::Missing));
        } else if self.tenant.chars().count() > MAX_ADDRESS {
            flaws.push(("tenant", Flaw::TooLong));
        }
        flaws
    }
}

/// Good enough to catch slips; whether it exists is not asked.
fn is_address(text: &str) -> bool {
    text.split_once('@').is_some_and(|(local, domain)| {
        !local.is_empty()
            && domain.contains('.')
            && !domain.starts_with('.')
            && !domain.ends_with('.')
            && !domain.contains('@')
            && !text.chars().any(|c| c.is_whitespace() || c.is_control())
    })
}

/// Who asked, and who authorized. Stored sealed.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Details {
    /// First name of who asked.
    pub first_name: String,
    /// Last name of who asked.
    pub last_name: String,
    /// Company.
    pub company: String,
    /// Address of who asked.
    pub email: String,
    /// Address of the administrator, if somebody else.
    pub administrator: String,
    /// Name of who signed in.
    #[serde(default)]
    pub authorized_by: String,
    /// Account name of who signed in.
    #[serde(default)]
    pub authorized_as: String,
}

impl std::fmt::Debug for Details {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Details([names])")
    }
}

/// Why an onboarding does not go on. Which page that makes: [`super::web`].
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// Microsoft refused, or did not answer.
    #[error(transparent)]
    Microsoft(#[from] MicrosoftError),
    /// The sign-in is not proven.
    #[error("the sign-in is not proven")]
    NotProven(#[source] IdTokenError),
    /// A personal Microsoft account.
    #[error("a personal account signed in")]
    PersonalAccount,
    /// An account of another organisation.
    #[error("an account of another organisation signed in")]
    WrongOrganisation,
    /// A guest of the organisation.
    #[error("a guest signed in")]
    Guest,
    /// Not an administrator, where one is needed.
    #[error("somebody who is no administrator signed in")]
    NotAdministrator,
    /// Our registration does not let Microsoft tell directory roles: nobody knows whether this is an administrator.
    #[error("Microsoft does not tell the directory roles of who signs in")]
    RolesNotTold,
    /// A permission was not granted.
    #[error("the permission {0} was not granted")]
    PermissionMissing(&'static str),
    /// Microsoft gave no refresh token.
    #[error("no refresh token was granted")]
    NoLastingAccess,
    /// Consent takes a while to reach all of Microsoft; more will be known soon.
    #[error("the consent has not reached all of Microsoft yet")]
    NotThereYet(#[source] MicrosoftError),
    /// The organisation is connected already, and who asks is not known to be allowed to change that.
    #[error("the organisation is connected already")]
    AlreadyConnected,
    /// Somebody else has signed in meanwhile, or it was completed already.
    #[error("the onboarding has moved on")]
    MovedOn,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something sealed does not open.
    #[error(transparent)]
    Seal(#[from] SealError),
}

impl From<RedeemError> for Trouble {
    fn from(e: RedeemError) -> Self {
        match e {
            RedeemError::Microsoft(e) | RedeemError::IdToken(IdTokenError::Keys(e)) => {
                Self::Microsoft(e)
            }
            RedeemError::IdToken(IdTokenError::Personal) => Self::PersonalAccount,
            RedeemError::IdToken(e) => Self::NotProven(e),
        }
    }
}

/// What connects organisations.
pub struct Onboardings {
    /// Where it is stored.
    pub store: Store,
    /// Who signs people in.
    pub entra: Entra,
    /// What is read once to see that it works.
    pub graph: Graph,
    /// Seals.
    pub key: Arc<KeyRing>,
    /// Tells the time.
    pub clock: Clock,
    /// Where Microsoft sends browsers back to.
    pub redirect_uri: Url,
    /// How long after a consent Microsoft's "unknown application" is taken for "not yet". `entra-oauth.md` §6.
    pub propagation: Duration,
    /// Whether who connects an organisation is refused when Microsoft does not tell that he is an administrator.
    pub roles_required: bool,
}

fn details_at(id: Uuid, tenant: TenantId) -> (String, TenantId) {
    (id.to_string(), tenant)
}

fn sealed_at<'a>(row: &'a (String, TenantId), column: &'static str) -> SealedAt<'a> {
    SealedAt {
        tenant: row.1,
        table: "onboardings",
        column,
        row: &row.0,
        generation: 0,
    }
}

/// Where the details of a connected tenant are sealed.
fn connection_at(tenant: TenantId, authorized_at: Timestamp) -> SealedAt<'static> {
    SealedAt {
        tenant,
        table: "connections",
        column: "details",
        row: "",
        generation: authorized_at.as_millis(),
    }
}

fn to_json(details: &Details) -> Vec<u8> {
    serde_json::to_vec(details).expect("texts are JSON")
}

fn from_json(bytes: &[u8]) -> Result<Details, Trouble> {
    serde_json::from_slice(bytes)
        .map_err(|_| StoreError::Nonsense("the details of an onboarding").into())
}

impl Onboardings {
    /// Asks Microsoft which tenant is meant. `Ok(Err(_))` is a flaw to mend in the form.
    pub async fn find_tenant(
        &self,
        domain_or_id: &str,
    ) -> Result<Result<TenantId, Flaw>, MicrosoftError> {
        use crate::microsoft::error::BadInput;
        match self.entra.discover(domain_or_id).await {
            Ok(found) => {
                let ours = self.entra.graph_host();
                let here = found.graph_host.is_none() || found.graph_host == ours;
                Ok(if here {
                    Ok(found.tenant)
                } else {
                    Err(Flaw::NationalCloud)
                })
            }
            Err(MicrosoftError::Input { problem, .. }) => Ok(Err(match problem {
                BadInput::PersonalAccounts => Flaw::Personal,
                _ => Flaw::NoTenant,
            })),
            Err(e) => match e.recovery() {
                Recovery::AskAdministrator(cause) | Recovery::Reauthorize(cause) => {
                    let national = ["AADSTS90038", "AADSTS900382", "AADSTS1000104"];
                    Ok(Err(if national.contains(&cause.code.as_str()) {
                        Flaw::NationalCloud
                    } else {
                        Flaw::UnknownTenant
                    }))
                }
                _ => Err(e),
            },
        }
    }

    /// Begins to connect an organisation that was found.
    pub async fn begin(&self, wish: &Wish, tenant: TenantId) -> Result<Uuid, Trouble> {
        let details = Details {
            first_name: wish.first_name.clone(),
            last_name: wish.last_name.clone(),
            company: wish.company.clone(),
            email: wish.email.clone(),
            administrator: wish.administrator.clone(),
            ..Details::default()
        };
        self.put(tenant, &wish.tenant, &details, None).await
    }

    /// Begins to authorize the connection of a tenant anew, for its own people.
    pub async fn begin_again(&self, tenant: &TenantRow) -> Result<Uuid, Trouble> {
        let known = self.connection(tenant.id).await?;
        let (domain, details) = match known {
            Some((row, details)) => (row.domain, details),
            None => (
                tenant.name.clone(),
                Details {
                    company: tenant.name.clone(),
                    ..Details::default()
                },
            ),
        };
        self.put(tenant.id, &domain, &details, Some(tenant.connection))
            .await
    }

    async fn put(
        &self,
        tenant: TenantId,
        domain: &str,
        details: &Details,
        connection: Option<ConnectionKind>,
    ) -> Result<Uuid, Trouble> {
        let (id, now) = (Uuid::new_v4(), self.clock.now());
        let (data_key, wrapped_key) = self.key.new_data_key(tenant)?;
        let at = details_at(id, tenant);
        let new = NewOnboarding {
            id,
            tenant,
            domain: domain.to_owned(),
            reconnects: connection.is_some(),
            wrapped_key,
            details: data_key.seal(sealed_at(&at, "details"), &to_json(details)),
            connection,
            link_hash: None,
            expires_at: now.plus(LIFE),
        };
        self.store.put_onboarding(&new, now).await?;
        Ok(id)
    }

    fn data_key(&self, row: &OnboardingRow) -> Result<DataKey, Trouble> {
        Ok(self.key.open_data_key(row.tenant, &row.wrapped_key)?)
    }

    /// Who asked, and who authorized. Empty once completed: then it belongs to the tenant.
    pub fn details(&self, row: &OnboardingRow) -> Result<Details, Trouble> {
        if row.step == OnboardingStep::Completed {
            return Ok(Details::default());
        }
        let at = details_at(row.id, row.tenant);
        let plain = self
            .data_key(row)?
            .open(sealed_at(&at, "details"), &row.details)?;
        from_json(&plain)
    }

    /// How a tenant came to be connected.
    pub async fn connection(
        &self,
        tenant: TenantId,
    ) -> Result<Option<(ConnectionRow, Details)>, Trouble> {
        let (Some(row), Some(wrapped)) = (
            self.store.connection(tenant).await?,
            self.store.data_key(tenant).await?,
        ) else {
            return Ok(None);
        };
        let key = self.key.open_data_key(tenant, &wrapped)?;
        // Connected anew on the command line, the tenant has another data key: whose it is stays, the names are gone.
        let details = match key.open(connection_at(tenant, row.authorized_at), &row.details) {
            Ok(plain) => from_json(&plain)?,
            Err(SealError::DoesNotOpen) => Details::default(),
            Err(e) => return Err(e.into()),
        };
        Ok(Some((row, details)))
    }

    /// Redeems the code of a sign-in for an onboarding, checks who it was and what was granted, and tries the connection.
    ///
    /// `Ok` names who signed in; whether the connection works is said separately, because a consent may need time.
    pub async fn signed_in(
        &self,
        row: &OnboardingRow,
        sign_in: &SignIn<'_>,
        code: &str,
    ) -> Result<(SignedIn, Result<(), Trouble>), Trouble> {
        let kind = row.connection.ok_or(Trouble::MovedOn)?;
        let authorized = self.entra.redeem(sign_in, code).await?;
        let person = authorized.person;
        check_person(&person, row.tenant, kind, self.roles_required)?;
        if !row.reconnects && self.is_connected(row.tenant).await? {
            return Ok((person, Err(Trouble::AlreadyConnected)));
        }
        let refresh_token = match sign_in.ask {
            Ask::Identity => None,
            Ask::ServiceAccount => {
                check_granted(&authorized.access)?;
                Some(authorized.refresh_token.ok_or(Trouble::NoLastingAccess)?)
            }
        };
        let mut details = self.details(row)?;
        details.authorized_by = person.name.clone().unwrap_or_default();
        details.authorized_as = person.username.clone().unwrap_or_default();
        let (key, at) = (self.data_key(row)?, details_at(row.id, row.tenant));
        let sealed_details = key.seal(sealed_at(&at, "details"), &to_json(&details));
        let sealed_token = refresh_token
            .as_ref()
            .map(|token| key.seal(sealed_at(&at, "refresh_token"), token.expose().as_bytes()));
        let now = self.clock.now();
        let noted = self
            .store
            .note_sign_in(
                row.id,
                kind,
                person.account,
                &sealed_details,
                sealed_token.as_deref(),
                now,
            )
            .await?;
        if !noted {
            return Err(Trouble::MovedOn);
        }
        let access = refresh_token.is_some().then_some(authorized.access);
        let works = self
            .try_connection(row, person.account, &details, access, now)
            .await;
        Ok((person, works))
    }

    /// Tries the connection of an organisation whose consent may not have reached all of Microsoft before.
    pub async fn try_again(&self, row: &OnboardingRow) -> Result<(), Trouble> {
        let (Some(account), Some(since)) = (row.account, row.signed_in_at) else {
            return Err(Trouble::MovedOn);
        };
        if row.connection != Some(ConnectionKind::Organisation) {
            return Err(Trouble::MovedOn);
        }
        let details = self.details(row)?;
        self.try_connection(row, account, &details, None, since)
            .await
    }

    /// A real token and a test read; only then is the onboarding authorized.
    async fn try_connection(
        &self,
        row: &OnboardingRow,
        account: UserId,
        details: &Details,
        access: Option<AccessToken>,
        signed_in_at: Timestamp,
    ) -> Result<(), Trouble> {
        let by_consent = access.is_none();
        let tried = async {
            let access = match access {
                Some(access) => access,
                None => self.entra.app_token(row.tenant).await?,
            };
            self.test_read(&access, account, &details.authorized_as)
                .await
        };
        match tried.await {
            Ok(()) => {
                if self.store.note_authorized(row.id, account).await? {
                    Ok(())
                } else {
                    Err(Trouble::MovedOn)
                }
            }
            Err(failed)
                if by_consent
                    && may_pass(&failed)
                    && signed_in_at.until(self.clock.now()) < self.propagation =>
            {
                Err(Trouble::NotThereYet(failed))
            }
            Err(failed) => Err(Trouble::Microsoft(failed)),
        }
    }

    /// Reads the presence of who signed in, and looks the account up: what the poller does all day, once.
    async fn test_read(
        &self,
        access: &AccessToken,
        account: UserId,
        username: &str,
    ) -> Result<(), MicrosoftError> {
        self.graph.presences(&access.secret, &[account]).await?;
        if let Ok(upn) = Upn::parse(username) {
            let lookup = self.graph.lookup(&access.secret, &[upn]).await?;
            if let Some((_, failed)) = lookup.failed.into_iter().next() {
                return Err(failed);
            }
        }
        Ok(())
    }

    async fn is_connected(&self, tenant: TenantId) -> Result<bool, StoreError> {
        let row = self.store.tenant(tenant).await?;
        Ok(row.is_some_and(|row| row.status != TenantStatus::Gone))
    }

    /// Connects the tenant as authorized by this account.
    pub async fn complete(&self, row: &OnboardingRow, account: UserId) -> Result<(), Trouble> {
        let kind = row.connection.ok_or(Trouble::MovedOn)?;
        if row.step != OnboardingStep::Authorized || row.account != Some(account) {
            return Err(Trouble::MovedOn);
        }
        let before = self
            .store
            .tenant(row.tenant)
            .await?
            .filter(|t| t.status != TenantStatus::Gone);
        if before.is_some() && !row.reconnects {
            return Err(Trouble::AlreadyConnected);
        }
        let now = self.clock.now();
        let details = self.details(row)?;
        let (tenant_key, wrapped_data_key) = self.key.new_data_key(row.tenant)?;
        let sealed_refresh_token = match &row.refresh_token {
            None => None,
            Some(sealed) => {
                let at = details_at(row.id, row.tenant);
                let plain = self
                    .data_key(row)?
                    .open(sealed_at(&at, "refresh_token"), sealed)?;
                let token =
                    Secret::new(std::str::from_utf8(&plain).map_err(|_| SealError::DoesNotOpen)?);
                Some(first_refresh_token(&tenant_key, row.tenant, &token, now))
            }
        };
        let tenant = match before {
            Some(before) => TenantRow {
                connection: kind,
                ..before
            },
            None => TenantRow {
                id: row.tenant,
                name: details.company.clone(),
                connection: kind,
                status: TenantStatus::Active,
                max_watched: DEFAULT_MAX_WATCHED,
                share_status_message: false,
                share_work_location: false,
                updated_at: now,
            },
        };
        let new = NewTenant {
            row: tenant,
            wrapped_data_key,
            sealed_refresh_token,
        };
        let connection = ConnectionRow {
            domain: row.domain.clone(),
            account,
            authorized_at: now,
            details: tenant_key.seal(connection_at(row.tenant, now), &to_json(&details)),
        };
        if self
            .store
            .complete_onboarding(row.id, &new, &connection, now)
            .await?
        {
            tracing::info!(tenant.id = %row.tenant, connection = kind.as_str(), again = row.reconnects, "a tenant was connected");
            Ok(())
        } else {
            Err(Trouble::MovedOn)
        }
    }
}

/// Whether this person may authorize for this tenant.
fn check_person(
    person: &SignedIn,
    tenant: TenantId,
    kind: ConnectionKind,
    roles_required: bool,
) -> Result<(), Trouble> {
    if person.tenant != tenant {
        return Err(Trouble::WrongOrganisation);
    }
    if person.guest {
        return Err(Trouble::Guest);
    }
    if kind == ConnectionKind::ServiceAccount {
        return Ok(());
    }
    match &person.roles {
        Some(roles) if roles.iter().any(|role| ADMINISTRATORS.contains(role)) => Ok(()),
        Some(_) => Err(Trouble::NotAdministrator),
        None if roles_required => Err(Trouble::RolesNotTold),
        None => Ok(()),
    }
}

fn check_granted(access: &AccessToken) -> Result<(), Trouble> {
    match PERMISSIONS.iter().find(|name| !access.has_scope(name)) {
        Some(missing) => Err(Trouble::PermissionMissing(missing)),
        None => Ok(()),
    }
}

/// Whether a refusal right after a consent may be gone in a minute: the application is not known there yet, or Graph has not
/// heard of its permissions. `entra-oauth.md` §6.
fn may_pass(failed: &MicrosoftError) -> bool {
    matches!(
        failed.recovery(),
        Recovery::AskAdministrator(_)
            | Recovery::FreshToken { .. }
            | Recovery::Retry { .. }
            | Recovery::Throttled { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish() -> Wish {
        Wish {
            first_name: " Ann ".into(),
            last_name: "Lee".into(),
            company: "Contoso\r\n".into(),
            email: "ann@contoso.com".into(),
            tenant: " https://WWW.Contoso.com/ ".into(),
            administrator: String::new(),
        }
    }

    #[test]
    fn what_people_paste_is_tidied() {
        let tidy = wish().tidied();
        assert_eq!(
            (tidy.first_name.as_str(), tidy.company.as_str()),
            ("Ann", "Contoso")
        );
        assert_eq!(tidy.tenant, "contoso.com");
        let of_address = Wish {
            tenant: "Ann@Contoso.COM".into(),
            ..wish()
        };
        assert_eq!(of_address.tidied().tenant, "contoso.com");
        assert_eq!(tidy.flaws(), []);
    }

    #[test]
    fn every_flaw_is_told_at_once() {
        let bad = Wish {
            first_name: String::new(),
            last_name: "x".repeat(101),
            email: "ann".into(),
            tenant: String::new(),
            administrator: "boss @contoso.com".into(),
            ..wish()
        };
        assert_eq!(
            bad.flaws(),
            [
                ("first_name", Flaw::Missing),
                ("last_name", Flaw::TooLong),
                ("email", Flaw::NoAddress),
                ("administrator", Flaw::NoAddress),
                ("tenant", Flaw::Missing),
            ]
        );
    }

    #[test]
    fn only_members_of_the_very_tenant_may_authorize() {
        let tenant = TenantId(Uuid::from_u128(1));
        let person = SignedIn {
            tenant,
            account: UserId(Uuid::from_u128(2)),
            name: None,
            username: None,
            guest: false,
            roles: None,
        };
        let kind = ConnectionKind::Organisation;
        assert!(check_person(&person, tenant, kind, false).is_ok());
        let other = TenantId(Uuid::from_u128(3));
        assert!(matches!(
            check_person(&person, other, kind, false),
            Err(Trouble::WrongOrganisation)
        ));
        let guest = SignedIn {
            guest: true,
            ..person.clone()
        };
        assert!(matches!(
            check_person(&guest, tenant, kind, false),
            Err(Trouble::Guest)
        ));
        let with_roles = |roles: Vec<Uuid>| SignedIn {
            roles: Some(roles),
            ..person.clone()
        };
        let nobody = with_roles(vec![Uuid::from_u128(9)]);
        assert!(matches!(
            check_person(&nobody, tenant, kind, false),
            Err(Trouble::NotAdministrator)
        ));
        assert!(check_person(&nobody, tenant, ConnectionKind::ServiceAccount, false).is_ok());
        assert!(check_person(&with_roles(vec![ADMINISTRATORS[2]]), tenant, kind, false).is_ok());
        assert!(matches!(
            check_person(&person, tenant, kind, true),
            Err(Trouble::RolesNotTold)
        ));
    }

    #[test]
    fn both_permissions_are_needed() {
        let access = |scopes: &[&str]| AccessToken {
            secret: Secret::new("t"),
            expires_at: Timestamp::default(),
            scopes: scopes.iter().map(|s| (*s).to_owned()).collect(),
        };
        let graph = "https://graph.microsoft.com";
        let both = [
            format!("{graph}/presence.read.all"),
            "User.ReadBasic.All".into(),
        ];
        let both: Vec<&str> = both.iter().map(String::as_str).collect();
        assert!(check_granted(&access(&both)).is_ok());
        assert!(matches!(
            check_granted(&access(&["User.ReadBasic.All"])),
            Err(Trouble::PermissionMissing("Presence.Read.All"))
        ));
    }
}
