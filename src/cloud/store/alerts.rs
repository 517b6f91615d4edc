use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::{Store, StoreError, optional_uuid, uuid};
use crate::cloud::alerts::machine::Step;
use crate::cloud::alerts::rules::{Key, Kind, Severity, Trouble};
use crate::cloud::operations::view::AlertLine;
use crate::model::{TenantId, Timestamp};

/// Who is to be told, and from which severity on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addressee {
    /// Its name in the configuration.
    pub name: String,
    /// Less serious alerts are not told.
    pub least: Severity,
}

/// What a message about an alert tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It has begun.
    Raised,
    /// It has become worse.
    Escalated,
    /// It is over.
    Closed,
}

impl Event {
    /// The word in the database and in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raised => "raised",
            Self::Escalated => "escalated",
            Self::Closed => "closed",
        }
    }
}

/// A message that waits to be delivered.
#[derive(Debug, Clone)]
pub struct Message {
    /// Its id, the same at every try.
    pub id: Uuid,
    /// What it tells.
    pub event: Event,
    /// When it was made.
    pub made_at: Timestamp,
    /// How often it was tried.
    pub tries: u32,
    /// About what, as it is known now.
    pub alert: AlertLine,
}

/// A receiver that was tried several times in vain.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// Its name in the configuration.
    pub receiver: String,
    /// When the oldest message was made.
    pub since: Timestamp,
    /// Why the last try failed.
    pub problem: String,
}

const CHANGE: &str = "store what is to be known about alerts";
const READ: &str = "read the alerts";
const MESSAGES: &str = "look for messages about alerts";

pub(super) fn line(row: &SqliteRow) -> Result<AlertLine, StoreError> {
    let failed = |e| StoreError::Database(READ, e);
    let time = |millis: Option<i64>| millis.map(Timestamp::from_millis);
    Ok(AlertLine {
        id: uuid(row, "alert_id")?,
        kind: row.try_get("kind").map_err(failed)?,
        tenant: optional_uuid(row, "tenant_id")?.map(TenantId),
        tenant_name: row.try_get("name").map_err(failed)?,
        subject: row.try_get("subject").map_err(failed)?,
        severity: row.try_get("severity").map_err(failed)?,
        title: row.try_get("title").map_err(failed)?,
        cause: row.try_get("cause").map_err(failed)?,
        cure: row.try_get("cure").map_err(failed)?,
        raised_at: Timestamp::from_millis(row.try_get("raised_at").map_err(failed)?),
        escalated_at: time(row.try_get("escalated_at").map_err(failed)?),
        closed_at: time(row.try_get("closed_at").map_err(failed)?),
    })
}

async fn enqueue(
    on: &mut sqlx::SqliteConnection,
    alert: Uuid,
    receiver: &str,
    event: Event,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO alert_messages (message_id, alert_id, receiver, event, made_at, next_try) VALUES ($1, $2, $3, $4, $5, $5)",
    )
    .bind(Uuid::new_v4().to_string())
    .bind(alert.to_string())
    .bind(receiver)
    .bind(event.as_str())
    .bind(now.as_millis())
    .execute(on)
    .await
    .map(drop)
}

/// Who was told about an alert, or is going to be.
async fn told(on: &mut sqlx::SqliteConnection, alert: Uuid) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query("SELECT DISTINCT receiver FROM alert_messages WHERE alert_id = $1")
        .bind(alert.to_string())
        .fetch_all(on)
        .await?
        .iter()
        .map(|row| row.try_get("receiver"))
        .collect()
}

async fn write_words(
    on: &mut sqlx::SqliteConnection,
    alert: Uuid,
    of: &Trouble,
    escalated_at: Option<Timestamp>,
) -> Result<(), sqlx::Error> {
    let severity = escalated_at.map(|_| of.severity.as_str());
    sqlx::query(
        "UPDATE alerts SET title = $2, cause = $3, cure = $4, severity = COALESCE($5, severity), escalated_at = COALESCE($6, escalated_at)
         WHERE alert_id = $1",
    )
    .bind(alert.to_string())
    .bind(&of.title)
    .bind(&of.cause)
    .bind(&of.cure)
    .bind(severity)
    .bind(escalated_at.map(Timestamp::as_millis))
    .execute(on)
    .await
    .map(drop)
}

async fn take(
    on: &mut sqlx::SqliteConnection,
    step: &Step,
    addressees: &[Addressee],
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    match step {
        Step::Raise { id, key, trouble } => {
            sqlx::query(
                "INSERT INTO alerts (alert_id, kind, tenant_id, subject, severity, title, cause, cure, raised_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            )
            .bind(id.to_string())
            .bind(key.kind.as_str())
            .bind(key.tenant.map(|t| t.to_string()))
            .bind(&key.subject)
            .bind(trouble.severity.as_str())
            .bind(&trouble.title)
            .bind(&trouble.cause)
            .bind(&trouble.cure)
            .bind(now.as_millis())
            .execute(&mut *on)
            .await?;
            for to in listening(addressees, key, trouble) {
                enqueue(on, *id, &to.name, Event::Raised, now).await?;
            }
        }
        Step::Escalate { id, key, trouble } => {
            write_words(on, *id, trouble, Some(now)).await?;
            let told = told(on, *id).await?;
            for to in listening(addressees, key, trouble) {
                let event = if told.contains(&to.name) {
                    Event::Escalated
                } else {
                    Event::Raised
                };
                enqueue(on, *id, &to.name, event, now).await?;
            }
        }
        Step::Reword { id, trouble, .. } => write_words(on, *id, trouble, None).await?,
        Step::Close { id, .. } => close(on, *id, addressees, now).await?,
    }
    Ok(())
}

async fn close(
    on: &mut sqlx::SqliteConnection,
    id: Uuid,
    addressees: &[Addressee],
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE alerts SET closed_at = $2 WHERE alert_id = $1")
        .bind(id.to_string())
        .bind(now.as_millis())
        .execute(&mut *on)
        .await?;
    let told = told(on, id).await?;
    // Who is not configured any more is told nothing.
    for to in addressees.iter().filter(|to| told.contains(&to.name)) {
        enqueue(on, id, &to.name, Event::Closed, now).await?;
    }
    Ok(())
}

/// Who is told; never about himself.
fn listening<'a>(
    addressees: &'a [Addressee],
    key: &'a Key,
    trouble: &'a Trouble,
) -> impl Iterator<Item = &'a Addressee> {
    let about = (key.kind == Kind::MessagesUndelivered).then_some(&key.subject);
    addressees
        .iter()
        .filter(move |to| trouble.severity >= to.least && Some(&to.name) != about)
}

impl Store {
    /// Does what is to be done about alerts, with the messages it takes, all or nothing.
    pub async fn put_alerts(
        &self,
        steps: &[Step],
        addressees: &[Addressee],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let failed = |e| StoreError::Database(CHANGE, e);
        let mut tx = self.begin().await.map_err(failed)?;
        for step in steps {
            take(&mut tx, step, addressees, now).await.map_err(failed)?;
        }
        tx.commit().await.map_err(failed)
    }

    /// Closes an alert, and tells whoever was told about it.
    pub async fn close_alert(
        &self,
        id: Uuid,
        addressees: &[Addressee],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let failed = |e| StoreError::Database(CHANGE, e);
        let mut tx = self.begin().await.map_err(failed)?;
        close(&mut tx, id, addressees, now).await.map_err(failed)?;
        tx.commit().await.map_err(failed)
    }

    /// Tells of an open alert whoever has not been told: he was added or renamed, or wants to know more than before.
    pub async fn tell_open_alert(
        &self,
        alert: &AlertLine,
        addressees: &[Addressee],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let failed = |e| StoreError::Database(CHANGE, e);
        let severity = Severity::from_word(&alert.severity);
        let mut tx = self.begin().await.map_err(failed)?;
        // What was given up has not been told.
        let told: Vec<String> = sqlx::query(
            "SELECT DISTINCT receiver FROM alert_messages WHERE alert_id = $1 AND (sent_at IS NOT NULL OR given_up = 0)",
        )
        .bind(alert.id.to_string())
        .fetch_all(&mut *tx)
        .await
        .and_then(|rows| rows.iter().map(|row| row.try_get("receiver")).collect())
        .map_err(failed)?;
        let himself = alert.kind == Kind::MessagesUndelivered.as_str();
        for to in addressees {
            let listens = severity >= Some(to.least) && !(himself && to.name == alert.subject);
            if listens && !told.contains(&to.name) {
                let event = Event::Raised;
                enqueue(&mut tx, alert.id, &to.name, event, now)
                    .await
                    .map_err(failed)?;
            }
        }
        tx.commit().await.map_err(failed)
    }

    /// Messages that are due for a receiver, oldest first. Of each alert only the oldest one: they arrive in order.
    pub async fn due_messages(
        &self,
        receiver: &str,
        now: Timestamp,
        most: u32,
    ) -> Result<Vec<Message>, StoreError> {
        let failed = |e| StoreError::Database(MESSAGES, e);
        sqlx::query(
            "SELECT m.message_id, m.event, m.made_at, m.tries, a.*, t.name FROM alert_messages m
             JOIN alerts a USING (alert_id) LEFT JOIN tenants t ON t.tenant_id = a.tenant_id
             WHERE m.sent_at IS NULL AND m.given_up = 0 AND m.next_try <= $2 AND m.receiver = $1 AND NOT EXISTS (
                SELECT 1 FROM alert_messages e WHERE e.alert_id = m.alert_id AND e.receiver = m.receiver
                AND e.sent_at IS NULL AND e.given_up = 0 AND e.rowid < m.rowid)
             ORDER BY m.rowid LIMIT $3",
        )
        .bind(receiver)
        .bind(now.as_millis())
        .bind(most)
        .fetch_all(&self.readers)
        .await
        .map_err(failed)?
        .iter()
        .map(|row| {
            let (event, tries): (String, i64) = (
                row.try_get("event").map_err(failed)?,
                row.try_get("tries").map_err(failed)?,
            );
            Ok(Message {
                id: uuid(row, "message_id")?,
                event: match event.as_str() {
                    "closed" => Event::Closed,
                    "escalated" => Event::Escalated,
                    _ => Event::Raised,
                },
                made_at: Timestamp::from_millis(row.try_get("made_at").map_err(failed)?),
                tries: u32::try_from(tries).unwrap_or(u32::MAX),
                alert: line(row)?,
            })
        })
        .collect()
    }

    async fn change_message(
        &self,
        query: sqlx::query::Query<'_, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>,
    ) -> Result<(), StoreError> {
        query
            .execute(&self.writer)
            .await
            .map(drop)
            .map_err(|e| StoreError::Database(CHANGE, e))
    }

    /// A message has arrived.
    pub async fn message_sent(&self, id: Uuid, now: Timestamp) -> Result<(), StoreError> {
        let query = sqlx::query(
            "UPDATE alert_messages SET sent_at = $2, tries = tries + 1, problem = '' WHERE message_id = $1",
        );
        self.change_message(query.bind(id.to_string()).bind(now.as_millis()))
            .await
    }

    /// A message has not arrived; it is tried again then, or never.
    pub async fn message_failed(
        &self,
        id: Uuid,
        again: Option<Timestamp>,
        problem: &str,
    ) -> Result<(), StoreError> {
        let query = sqlx::query(
            "UPDATE alert_messages SET tries = tries + 1, next_try = COALESCE($2, next_try), given_up = $3, problem = $4 WHERE message_id = $1",
        )
        .bind(id.to_string())
        .bind(again.map(Timestamp::as_millis))
        .bind(again.is_none())
        .bind(problem.to_owned());
        self.change_message(query).await
    }

    /// Receivers for whom something waits that was tried so often already, or was given up after `since` and nothing has reached them
    /// later.
    pub async fn undelivered(
        &self,
        tries: u32,
        since: Timestamp,
    ) -> Result<Vec<Waiting>, StoreError> {
        let failed = |e| StoreError::Database(MESSAGES, e);
        sqlx::query(
            "SELECT receiver, MIN(made_at) AS since, problem FROM alert_messages m
             WHERE sent_at IS NULL AND tries >= $1 AND (given_up = 0 OR made_at >= $2 AND NOT EXISTS (
                SELECT 1 FROM alert_messages s WHERE s.receiver = m.receiver AND s.sent_at > m.next_try))
             GROUP BY receiver",
        )
        .bind(tries)
        .bind(since.as_millis())
        .fetch_all(&self.readers)
        .await
        .map_err(failed)?
        .iter()
        .map(|row| {
            Ok(Waiting {
                receiver: row.try_get("receiver").map_err(failed)?,
                since: Timestamp::from_millis(row.try_get("since").map_err(failed)?),
                problem: row.try_get("problem").map_err(failed)?,
            })
        })
        .collect()
    }

    /// Gives up messages to receivers that are not configured any more.
    pub async fn forget_receivers_but(&self, names: &[String]) -> Result<(), StoreError> {
        let names = serde_json::to_string(names).unwrap_or_default();
        let query = sqlx::query(
            "UPDATE alert_messages SET given_up = 1, tries = 0, problem = 'the receiver is not configured any more'
             WHERE sent_at IS NULL AND given_up = 0 AND receiver NOT IN (SELECT value FROM json_each($1))",
        );
        self.change_message(query.bind(names)).await
    }

    /// Forgets alerts that were over before then, with their messages.
    pub async fn trim_alerts(&self, before: Timestamp) -> Result<(), StoreError> {
        let failed = |e| StoreError::Database(CHANGE, e);
        let mut tx = self.begin().await.map_err(failed)?;
        for statement in [
            "DELETE FROM alert_messages WHERE alert_id IN (SELECT alert_id FROM alerts WHERE closed_at < $1)",
            "DELETE FROM alerts WHERE closed_at < $1",
        ] {
            sqlx::query(statement)
                .bind(before.as_millis())
                .execute(&mut *tx)
                .await
                .map_err(failed)?;
        }
        tx.commit().await.map_err(failed)
    }
}
