-- What operators look at afterwards. No secret, no person's name and no UPN is ever stored here; the account that authorized a
-- connection appears by its object id. A file that has shipped is frozen.

-- Who did what to which tenant, and when. Entries are added and never changed.
CREATE TABLE audit (
    entry_id   INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    at         INTEGER NOT NULL,
    actor_kind TEXT    NOT NULL CHECK (actor_kind IN ('operator', 'command-line', 'customer', 'suite', 'service')),
    actor      TEXT    NOT NULL,                         -- who of that kind; empty where the kind says all
    action     TEXT    NOT NULL,
    tenant_id  TEXT,                                     -- outlives the tenant
    suite_id   TEXT,
    detail     TEXT    NOT NULL                          -- what else is to be known, in words
) STRICT;
CREATE INDEX audit_by_tenant ON audit (tenant_id, entry_id);
CREATE TRIGGER audit_is_never_changed BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_is_never_shortened BEFORE DELETE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;

-- How the health of each tenant's connection went.
CREATE TABLE health_history (
    entry_id       INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    tenant_id      TEXT    NOT NULL REFERENCES tenants (tenant_id),
    at             INTEGER NOT NULL,
    state          TEXT    NOT NULL,
    cause          TEXT    NOT NULL,
    remedy         TEXT    NOT NULL,
    code           TEXT    NOT NULL,                     -- Microsoft's, for example AADSTS65001
    correlation_id TEXT    NOT NULL                      -- Microsoft's name for the request, for its support
) STRICT;
CREATE INDEX health_history_by_tenant ON health_history (tenant_id, entry_id);

-- When a suite was last connected, and with what.
ALTER TABLE suites ADD COLUMN last_seen_at INTEGER;
ALTER TABLE suites ADD COLUMN agent_version TEXT;

-- Alerts: one row from the first sight of a trouble to its end.
CREATE TABLE alerts (
    alert_id     TEXT    NOT NULL PRIMARY KEY,
    kind         TEXT    NOT NULL,
    tenant_id    TEXT,                                   -- NULL: about this service
    subject      TEXT    NOT NULL,                       -- what else tells it from others of its kind: a suite, a credential
    severity     TEXT    NOT NULL CHECK (severity IN ('notice', 'warning', 'critical')),
    title        TEXT    NOT NULL,
    cause        TEXT    NOT NULL,
    cure         TEXT    NOT NULL,
    raised_at    INTEGER NOT NULL,
    escalated_at INTEGER,
    closed_at    INTEGER                                 -- NULL: open
) STRICT;
CREATE UNIQUE INDEX alerts_open ON alerts (kind, COALESCE(tenant_id, ''), subject) WHERE closed_at IS NULL;
CREATE INDEX alerts_by_tenant ON alerts (tenant_id, raised_at);

-- Messages about alerts that wait to be delivered, one per receiver.
CREATE TABLE alert_messages (
    message_id TEXT    NOT NULL PRIMARY KEY,
    alert_id   TEXT    NOT NULL REFERENCES alerts (alert_id),
    receiver   TEXT    NOT NULL,                         -- its name in the configuration
    event      TEXT    NOT NULL CHECK (event IN ('raised', 'escalated', 'closed')),
    made_at    INTEGER NOT NULL,
    tries      INTEGER NOT NULL DEFAULT 0,
    next_try   INTEGER NOT NULL,
    sent_at    INTEGER,
    given_up   INTEGER NOT NULL DEFAULT 0,
    problem    TEXT    NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX alert_messages_due ON alert_messages (next_try) WHERE sent_at IS NULL AND given_up = 0;

-- Signed-in operators. The cookie's hash is stored, never the cookie.
CREATE TABLE operator_sessions (
    session_hash BLOB    NOT NULL PRIMARY KEY,
    operator     TEXT    NOT NULL,
    role         TEXT    NOT NULL CHECK (role IN ('viewer', 'operator')),
    proof        BLOB    NOT NULL,                       -- hash of what let them in: another password ends all sessions
    created_at   INTEGER NOT NULL,
    used_at      INTEGER NOT NULL
) STRICT;

-- Tokens for the admin API, made on the command line; the hash is stored.
CREATE TABLE api_tokens (
    token_hash BLOB    NOT NULL PRIMARY KEY,
    name       TEXT    NOT NULL UNIQUE,
    role       TEXT    NOT NULL CHECK (role IN ('viewer', 'operator')),
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;
