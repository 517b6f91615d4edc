use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::audit::enter;
use super::tenants::{ConnectionKind, NewTenant, put_tenant};
use super::{Action, Actor, Deed, Store, StoreError, optional_uuid, uuid};
use crate::model::{TenantId, Timestamp, UserId};
use crate::secret::{Secret, sha256};

/// How far an onboarding has come. Each step includes the ones before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OnboardingStep {
    /// Nobody has signed in; the tenant is what discovery says.
    Open,
    /// A verified account of the tenant has signed in; the connection has not been tried with success.
    SignedIn,
    /// The connection works: it may be completed.
    Authorized,
    /// The tenant is connected.
    Completed,
}

impl OnboardingStep {
    const ALL: [Self; 4] = [
        Self::Open,
        Self::SignedIn,
        Self::Authorized,
        Self::Completed,
    ];

    /// The word in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::SignedIn => "signed-in",
            Self::Authorized => "authorized",
            Self::Completed => "completed",
        }
    }
}

/// An onboarding as begun.
#[derive(Debug)]
pub struct NewOnboarding {
    /// Its id.
    pub id: Uuid,
    /// As discovered.
    pub tenant: TenantId,
    /// As written by the customer.
    pub domain: String,
    /// Whether the tenant is connected already and its own people ask.
    pub reconnects: bool,
    /// Data key of the row, wrapped.
    pub wrapped_key: Vec<u8>,
    /// Sealed.
    pub details: Vec<u8>,
    /// The kind of connection, if already known.
    pub connection: Option<ConnectionKind>,
    /// SHA-256 of the link to forward.
    pub link_hash: Option<[u8; 32]>,
    /// When it is forgotten.
    pub expires_at: Timestamp,
}

/// An onboarding as stored.
#[derive(Debug, Clone)]
pub struct OnboardingRow {
    /// Its id.
    pub id: Uuid,
    /// As discovered.
    pub tenant: TenantId,
    /// As written by the customer.
    pub domain: String,
    /// Whether the tenant is connected already and its own people ask.
    pub reconnects: bool,
    /// Data key of the row, wrapped.
    pub wrapped_key: Vec<u8>,
    /// Sealed.
    pub details: Vec<u8>,
    /// The chosen kind of connection.
    pub connection: Option<ConnectionKind>,
    /// How far it has come.
    pub step: OnboardingStep,
    /// Who has signed in.
    pub account: Option<UserId>,
    /// When.
    pub signed_in_at: Option<Timestamp>,
    /// Sealed; service accounts, from the sign-in to the completion.
    pub refresh_token: Option<Vec<u8>>,
    /// SHA-256 of the link to forward.
    pub link_hash: Option<[u8; 32]>,
    /// When it was begun.
    pub created_at: Timestamp,
}

impl OnboardingRow {
    /// Whether this is the secret of its link.
    pub fn link_hash_is(&self, secret: &Secret) -> bool {
        self.link_hash == Some(sha256(secret.expose().as_bytes()))
    }
}

/// What a browser was sent to Microsoft for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignInPurpose {
    /// An administrator's consent; the sign-in comes after it.
    Consent,
    /// The sign-in that authorizes an onboarding.
    Connect,
    /// To see the status page.
    Status,
}

impl SignInPurpose {
    const ALL: [Self; 3] = [Self::Consent, Self::Connect, Self::Status];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Consent => "consent",
            Self::Connect => "connect",
            Self::Status => "status",
        }
    }
}

/// A browser that was sent to Microsoft.
#[derive(Debug, Clone)]
pub struct SignInRow {
    /// What for.
    pub purpose: SignInPurpose,
    /// SHA-256 of the cookie it was given.
    pub cookie_hash: [u8; 32],
    /// SHA-256 of its session.
    pub session_hash: [u8; 32],
    /// The onboarding it belongs to.
    pub onboarding: Option<Uuid>,
    /// Not good from then on.
    pub expires_at: Timestamp,
}

/// A browser's session.
#[derive(Debug, Clone, Default)]
pub struct WebSessionRow {
    /// The onboarding it works on.
    pub onboarding: Option<Uuid>,
    /// The tenant it may see.
    pub tenant: Option<TenantId>,
    /// Who signed in; `None`: nobody did, or it came by a link.
    pub account: Option<UserId>,
    /// What to tell on the next page.
    pub outcome: Option<String>,
    /// When it began.
    pub created_at: Timestamp,
    /// When it was last used.
    pub used_at: Timestamp,
}

/// How a tenant came to be connected.
#[derive(Debug, Clone)]
pub struct ConnectionRow {
    /// As written by the customer.
    pub domain: String,
    /// Who authorized.
    pub account: UserId,
    /// When.
    pub authorized_at: Timestamp,
    /// Sealed by the tenant's data key.
    pub details: Vec<u8>,
}

fn hash(row: &SqliteRow, column: &str) -> Result<[u8; 32], StoreError> {
    let bytes: &[u8] = row
        .try_get(column)
        .map_err(|e| StoreError::Database("read a hash", e))?;
    bytes
        .try_into()
        .map_err(|_| StoreError::Nonsense("a hash of another length"))
}

fn time(row: &SqliteRow, column: &str) -> Result<Timestamp, StoreError> {
    row.try_get(column)
        .map(Timestamp::from_millis)
        .map_err(|e| StoreError::Database("read a time", e))
}

fn onboarding(row: &SqliteRow) -> Result<OnboardingRow, StoreError> {
    let read = |e| StoreError::Database("read an onboarding", e);
    let (connection, step): (Option<&str>, &str) = (
        row.try_get("connection").map_err(read)?,
        row.try_get("step").map_err(read)?,
    );
    let signed_in_at: Option<i64> = row.try_get("signed_in_at").map_err(read)?;
    Ok(OnboardingRow {
        id: uuid(row, "onboarding_id")?,
        tenant: TenantId(uuid(row, "tenant_id")?),
        domain: row.try_get("domain").map_err(read)?,
        reconnects: row.try_get("reconnects").map_err(read)?,
        wrapped_key: row.try_get("wrapped_key").map_err(read)?,
        details: row.try_get("details").map_err(read)?,
        connection: connection
            .map(|word| {
                ConnectionKind::from_word(word).ok_or(StoreError::Nonsense("a kind of connection"))
            })
            .transpose()?,
        step: OnboardingStep::ALL
            .into_iter()
            .find(|s| s.as_str() == step)
            .ok_or(StoreError::Nonsense("a step of an onboarding"))?,
        account: optional_uuid(row, "account_id")?.map(UserId),
        signed_in_at: signed_in_at.map(Timestamp::from_millis),
        refresh_token: row.try_get("refresh_token").map_err(read)?,
        link_hash: {
            let some: Option<&[u8]> = row.try_get("link_hash").map_err(read)?;
            some.map(|_| hash(row, "link_hash")).transpose()?
        },
        created_at: time(row, "created_at")?,
    })
}

impl Store {
    /// Begins an onboarding.
    pub async fn put_onboarding(
        &self,
        new: &NewOnboarding,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO onboardings (onboarding_id, tenant_id, domain, reconnects, wrapped_key, details, connection, step,
                                      link_hash, created_at, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, 'open', $8, $9, $10)",
        )
        .bind(new.id.to_string())
        .bind(new.tenant.to_string())
        .bind(&new.domain)
        .bind(new.reconnects)
        .bind(&new.wrapped_key)
        .bind(&new.details)
        .bind(new.connection.map(ConnectionKind::as_str))
        .bind(new.link_hash.as_ref().map(<[u8; 32]>::as_slice))
        .bind(now.as_millis())
        .bind(new.expires_at.as_millis())
        .execute(&self.writer)
        .await
        .map(drop)
        .map_err(|e| StoreError::Database("begin an onboarding", e))
    }

    /// How many onboardings are remembered.
    pub async fn onboardings(&self) -> Result<i64, StoreError> {
        sqlx::query("SELECT count(*) FROM onboardings")
            .fetch_one(&self.readers)
            .await
            .and_then(|row| row.try_get(0))
            .map_err(|e| StoreError::Database("count the onboardings", e))
    }

    /// Forgets the oldest onboardings for which nobody has signed in, begun by then: up to so many. Returns how many.
    pub async fn forget_oldest_onboardings(
        &self,
        begun_by: Timestamp,
        limit: u32,
    ) -> Result<u64, StoreError> {
        sqlx::query(
            "DELETE FROM onboardings WHERE onboarding_id IN (SELECT onboarding_id FROM onboardings
                WHERE step = 'open' AND created_at <= $1 ORDER BY created_at LIMIT $2)",
        )
        .bind(begun_by.as_millis())
        .bind(i64::from(limit))
        .execute(&self.writer)
        .await
        .map(|done| done.rows_affected())
        .map_err(|e| StoreError::Database("forget the oldest onboardings", e))
    }

    /// An onboarding that has not expired.
    pub async fn onboarding(
        &self,
        id: Uuid,
        now: Timestamp,
    ) -> Result<Option<OnboardingRow>, StoreError> {
        let statement =
            sqlx::query("SELECT * FROM onboardings WHERE onboarding_id = $1 AND expires_at > $2");
        self.find_onboarding(statement.bind(id.to_string()), now)
            .await
    }

    /// The onboarding of a forwarded link, if neither has expired.
    pub async fn onboarding_by_link(
        &self,
        link_hash: [u8; 32],
        now: Timestamp,
    ) -> Result<Option<OnboardingRow>, StoreError> {
        let statement =
            sqlx::query("SELECT * FROM onboardings WHERE link_hash = $1 AND expires_at > $2");
        self.find_onboarding(statement.bind(link_hash.to_vec()), now)
            .await
    }

    async fn find_onboarding(
        &self,
        statement: sqlx::query::Query<'_, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>,
        now: Timestamp,
    ) -> Result<Option<OnboardingRow>, StoreError> {
        let row = statement
            .bind(now.as_millis())
            .fetch_optional(&self.readers)
            .await
            .map_err(|e| StoreError::Database("read an onboarding", e))?;
        row.map(|row| onboarding(&row)).transpose()
    }

    /// Chooses the kind of connection; a sign-in for another kind counts no longer. False once completed.
    pub async fn choose_connection(
        &self,
        id: Uuid,
        kind: ConnectionKind,
        link_hash: Option<[u8; 32]>,
    ) -> Result<bool, StoreError> {
        sqlx::query(
            "UPDATE onboardings SET connection = $2, link_hash = coalesce($3, link_hash), step = 'open', account_id = NULL,
                    refresh_token = NULL
             WHERE onboarding_id = $1 AND step <> 'completed'",
        )
        .bind(id.to_string())
        .bind(kind.as_str())
        .bind(link_hash.as_ref().map(<[u8; 32]>::as_slice))
        .execute(&self.writer)
        .await
        .map(|done| done.rows_affected() == 1)
        .map_err(|e| StoreError::Database("choose a connection", e))
    }

    /// Notes who has signed in for an onboarding, and what came with it. False once completed, or when another kind of connection
    /// was chosen meanwhile: what was asked and checked is not what would be connected.
    pub async fn note_sign_in(
        &self,
        id: Uuid,
        kind: ConnectionKind,
        account: UserId,
        details: &[u8],
        refresh_token: Option<&[u8]>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        sqlx::query(
            "UPDATE onboardings SET step = 'signed-in', account_id = $2, details = $3, refresh_token = $4, signed_in_at = $5
             WHERE onboarding_id = $1 AND connection = $6 AND step <> 'completed'",
        )
        .bind(id.to_string())
        .bind(account.to_string())
        .bind(details)
        .bind(refresh_token)
        .bind(now.as_millis())
        .bind(kind.as_str())
        .execute(&self.writer)
        .await
        .map(|done| done.rows_affected() == 1)
        .map_err(|e| StoreError::Database("note a sign-in", e))
    }

    /// The connection works, as this account has authorized it. False when somebody else has signed in meanwhile.
    pub async fn note_authorized(&self, id: Uuid, account: UserId) -> Result<bool, StoreError> {
        sqlx::query(
            "UPDATE onboardings SET step = 'authorized' WHERE onboarding_id = $1 AND account_id = $2
             AND step IN ('signed-in', 'authorized')",
        )
        .bind(id.to_string())
        .bind(account.to_string())
        .execute(&self.writer)
        .await
        .map(|done| done.rows_affected() == 1)
        .map_err(|e| StoreError::Database("note an authorization", e))
    }

    /// Connects the tenant as authorized, and forgets the onboarding's secrets; all or nothing. False when it is not authorized
    /// by this account, or completed already, or somebody else has connected or changed the tenant meanwhile.
    pub async fn complete_onboarding(
        &self,
        id: Uuid,
        new: &NewTenant,
        connection: &ConnectionRow,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let failed = |e| StoreError::Database("complete an onboarding", e);
        let mut tx = self.begin().await.map_err(failed)?;
        let completed = sqlx::query(
            "UPDATE onboardings SET step = 'completed', refresh_token = NULL, details = X'', wrapped_key = X''
             WHERE onboarding_id = $1 AND tenant_id = $2 AND account_id = $3 AND step = 'authorized'
               AND (NOT EXISTS (SELECT 1 FROM tenants t WHERE t.tenant_id = $2 AND t.status <> 'gone')
                    OR (reconnects = 1 AND EXISTS (SELECT 1 FROM tenants t WHERE t.tenant_id = $2 AND t.updated_at = $4)))",
        )
        .bind(id.to_string())
        .bind(new.row.id.to_string())
        .bind(connection.account.to_string())
        .bind(new.row.updated_at.as_millis())
        .execute(&mut *tx)
        .await
        .map_err(failed)?
        .rows_affected();
        if completed != 1 {
            return Ok(false);
        }
        let by = Actor::Customer(Some(connection.account));
        put_tenant(&mut tx, new, &by, now).await?;
        sqlx::query(
            "INSERT INTO connections (tenant_id, domain, account_id, authorized_at, details) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (tenant_id) DO UPDATE SET domain = $2, account_id = $3, authorized_at = $4, details = $5",
        )
        .bind(new.row.id.to_string())
        .bind(&connection.domain)
        .bind(connection.account.to_string())
        .bind(connection.authorized_at.as_millis())
        .bind(&connection.details)
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
        // Whoever authorized before has no more to see here than anybody else.
        sqlx::query("DELETE FROM web_sessions WHERE tenant_id = $1 AND account_id <> $2")
            .bind(new.row.id.to_string())
            .bind(connection.account.to_string())
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        Ok(true)
    }

    /// How a tenant came to be connected; `None` when the operator did it on the command line.
    pub async fn connection(&self, tenant: TenantId) -> Result<Option<ConnectionRow>, StoreError> {
        let failed = |e| StoreError::Database("read a connection", e);
        sqlx::query("SELECT domain, account_id, authorized_at, details FROM connections WHERE tenant_id = $1")
            .bind(tenant.to_string())
            .fetch_optional(&self.readers)
            .await
            .map_err(failed)?
            .map(|row| {
                Ok(ConnectionRow {
                    domain: row.try_get("domain").map_err(failed)?,
                    account: UserId(uuid(&row, "account_id")?),
                    authorized_at: time(&row, "authorized_at")?,
                    details: row.try_get("details").map_err(failed)?,
                })
            })
            .transpose()
    }

    /// Remembers that a browser was sent to Microsoft.
    pub async fn put_sign_in(
        &self,
        state_hash: [u8; 32],
        sign_in: &SignInRow,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO sign_ins (state_hash, cookie_hash, session_hash, purpose, onboarding_id, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(state_hash.as_slice())
        .bind(sign_in.cookie_hash.as_slice())
        .bind(sign_in.session_hash.as_slice())
        .bind(sign_in.purpose.as_str())
        .bind(sign_in.onboarding.map(|id| id.to_string()))
        .bind(sign_in.expires_at.as_millis())
        .execute(&self.writer)
        .await
        .map(drop)
        .map_err(|e| StoreError::Database("begin a sign-in", e))
    }

    /// Takes the sign-in of a state away: it is good once.
    pub async fn take_sign_in(
        &self,
        state_hash: [u8; 32],
    ) -> Result<Option<SignInRow>, StoreError> {
        let failed = |e| StoreError::Database("end a sign-in", e);
        sqlx::query("DELETE FROM sign_ins WHERE state_hash = $1 RETURNING *")
            .bind(state_hash.as_slice())
            .fetch_optional(&self.writer)
            .await
            .map_err(failed)?
            .map(|row| {
                let purpose: &str = row.try_get("purpose").map_err(failed)?;
                Ok(SignInRow {
                    purpose: SignInPurpose::ALL
                        .into_iter()
                        .find(|p| p.as_str() == purpose)
                        .ok_or(StoreError::Nonsense("a purpose of a sign-in"))?,
                    cookie_hash: hash(&row, "cookie_hash")?,
                    session_hash: hash(&row, "session_hash")?,
                    onboarding: optional_uuid(&row, "onboarding_id")?,
                    expires_at: time(&row, "expires_at")?,
                })
            })
            .transpose()
    }

    /// Begins a session.
    pub async fn put_web_session(
        &self,
        session_hash: [u8; 32],
        session: &WebSessionRow,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO web_sessions (session_hash, onboarding_id, tenant_id, account_id, outcome, created_at, used_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(session_hash.as_slice())
        .bind(session.onboarding.map(|id| id.to_string()))
        .bind(session.tenant.map(|id| id.to_string()))
        .bind(session.account.map(|id| id.to_string()))
        .bind(session.outcome.as_deref())
        .bind(session.created_at.as_millis())
        .bind(session.used_at.as_millis())
        .execute(&self.writer)
        .await
        .map(drop)
        .map_err(|e| StoreError::Database("save a session", e))
    }

    /// Notes that a session was used. One that has ended meanwhile stays ended.
    pub async fn note_session_use(
        &self,
        session_hash: [u8; 32],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        sqlx::query("UPDATE web_sessions SET used_at = max(used_at, $2) WHERE session_hash = $1")
            .bind(session_hash.as_slice())
            .bind(now.as_millis())
            .execute(&self.writer)
            .await
            .map(drop)
            .map_err(|e| StoreError::Database("note the use of a session", e))
    }

    /// Keeps what to tell on the next page of a session. False when it has ended meanwhile: it stays ended.
    pub async fn tell_web_session(
        &self,
        session_hash: [u8; 32],
        outcome: &str,
    ) -> Result<bool, StoreError> {
        sqlx::query("UPDATE web_sessions SET outcome = $2 WHERE session_hash = $1")
            .bind(session_hash.as_slice())
            .bind(outcome)
            .execute(&self.writer)
            .await
            .map(|done| done.rows_affected() == 1)
            .map_err(|e| StoreError::Database("note what to tell", e))
    }

    /// Ends the sessions that may see a tenant by a link, but for this one.
    pub async fn end_sessions_by_link(
        &self,
        tenant: TenantId,
        but_for: [u8; 32],
    ) -> Result<(), StoreError> {
        sqlx::query(
            "DELETE FROM web_sessions WHERE tenant_id = $1 AND session_hash <> $2 AND (account_id IS NULL
                OR account_id <> coalesce((SELECT c.account_id FROM connections c WHERE c.tenant_id = $1), ''))",
        )
        .bind(tenant.to_string())
        .bind(but_for.as_slice())
        .execute(&self.writer)
        .await
        .map(drop)
        .map_err(|e| StoreError::Database("end the sessions of a link", e))
    }

    /// A session used after `used_since` and begun after `begun_since`, whose tenant is not gone.
    pub async fn web_session(
        &self,
        session_hash: [u8; 32],
        used_since: Timestamp,
        begun_since: Timestamp,
    ) -> Result<Option<WebSessionRow>, StoreError> {
        let failed = |e| StoreError::Database("read a session", e);
        sqlx::query(
            "SELECT s.* FROM web_sessions s LEFT JOIN tenants t ON t.tenant_id = s.tenant_id
             WHERE s.session_hash = $1 AND s.used_at > $2 AND s.created_at > $3 AND (s.tenant_id IS NULL OR t.status <> 'gone')",
        )
        .bind(session_hash.as_slice())
        .bind(used_since.as_millis())
        .bind(begun_since.as_millis())
        .fetch_optional(&self.readers)
        .await
        .map_err(failed)?
        .map(|row| {
            Ok(WebSessionRow {
                onboarding: optional_uuid(&row, "onboarding_id")?,
                tenant: optional_uuid(&row, "tenant_id")?.map(TenantId),
                account: optional_uuid(&row, "account_id")?.map(UserId),
                outcome: row.try_get("outcome").map_err(failed)?,
                created_at: time(&row, "created_at")?,
                used_at: time(&row, "used_at")?,
            })
        })
        .transpose()
    }

    /// Ends a session.
    pub async fn end_web_session(&self, session_hash: [u8; 32]) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM web_sessions WHERE session_hash = $1")
            .bind(session_hash.as_slice())
            .execute(&self.writer)
            .await
            .map(drop)
            .map_err(|e| StoreError::Database("end a session", e))
    }

    /// Adds a secret link to a tenant's status page. With `replace`, all its other links are good no longer.
    pub async fn put_status_link(
        &self,
        link_hash: [u8; 32],
        tenant: TenantId,
        replace: bool,
        by: &Actor,
        now: Timestamp,
        expires_at: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        let failed = |e| StoreError::Database("make a link", e);
        let mut tx = self.begin().await.map_err(failed)?;
        if replace {
            sqlx::query("DELETE FROM status_links WHERE tenant_id = $1")
                .bind(tenant.to_string())
                .execute(&mut *tx)
                .await
                .map_err(failed)?;
        }
        sqlx::query(
            "INSERT INTO status_links (link_hash, tenant_id, created_at, expires_at) VALUES ($1, $2, $3, $4)",
        )
        .bind(link_hash.as_slice())
        .bind(tenant.to_string())
        .bind(now.as_millis())
        .bind(expires_at.map(Timestamp::as_millis))
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
        let detail = expires_at.map_or_else(
            || "good until another takes its place".to_owned(),
            |until| format!("good until {}", until.to_minute()),
        );
        let deed = Deed {
            by,
            action: Action::LinkMade,
            tenant: Some(tenant),
            suite: None,
            detail: &detail,
        };
        enter(&mut tx, deed, now).await?;
        tx.commit().await.map_err(failed)
    }

    /// The tenant of a link that is still good.
    pub async fn tenant_of_link(
        &self,
        link_hash: [u8; 32],
        now: Timestamp,
    ) -> Result<Option<TenantId>, StoreError> {
        sqlx::query(
            "SELECT l.tenant_id FROM status_links l JOIN tenants t ON t.tenant_id = l.tenant_id AND t.status <> 'gone'
             WHERE l.link_hash = $1 AND (l.expires_at IS NULL OR l.expires_at > $2)",
        )
        .bind(link_hash.as_slice())
        .bind(now.as_millis())
        .fetch_optional(&self.readers)
        .await
        .map_err(|e| StoreError::Database("read a link", e))?
        .map(|row| uuid(&row, "tenant_id").map(TenantId))
        .transpose()
    }

    /// Forgets what has expired: sign-ins, sessions, onboardings, links. Returns how many.
    pub async fn forget_expired(
        &self,
        now: Timestamp,
        used_since: Timestamp,
        begun_since: Timestamp,
    ) -> Result<u64, StoreError> {
        let failed = |e| StoreError::Database("forget what has expired", e);
        let mut forgotten = 0;
        for (statement, bound) in [
            ("DELETE FROM sign_ins WHERE expires_at <= $1", now),
            ("DELETE FROM web_sessions WHERE used_at <= $1", used_since),
            (
                "DELETE FROM web_sessions WHERE created_at <= $1",
                begun_since,
            ),
            ("DELETE FROM onboardings WHERE expires_at <= $1", now),
            ("DELETE FROM status_links WHERE expires_at <= $1", now),
        ] {
            forgotten += sqlx::query(statement)
                .bind(bound.as_millis())
                .execute(&self.writer)
                .await
                .map_err(failed)?
                .rows_affected();
        }
        Ok(forgotten)
    }
}
