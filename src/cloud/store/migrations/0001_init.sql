-- Ids are UUIDs as text, times are milliseconds since 1970, sealed values and keys are bytes. A file that has shipped is frozen.

CREATE TABLE tenants (
    tenant_id            TEXT    NOT NULL PRIMARY KEY,   -- Entra tenant id
    name                 TEXT    NOT NULL,
    connection           TEXT    NOT NULL CHECK (connection IN ('organisation', 'service-account')),
    status               TEXT    NOT NULL CHECK (status IN ('active', 'suspended', 'gone')),
    max_watched          INTEGER NOT NULL CHECK (max_watched > 0),
    share_status_message INTEGER NOT NULL DEFAULT 0,
    share_work_location  INTEGER NOT NULL DEFAULT 0,
    epoch                INTEGER NOT NULL DEFAULT 0,
    created_at           INTEGER NOT NULL,
    updated_at           INTEGER NOT NULL
) STRICT;

CREATE TABLE data_keys (
    tenant_id  TEXT    NOT NULL PRIMARY KEY REFERENCES tenants (tenant_id),
    wrapped    BLOB    NOT NULL,                         -- data key, sealed by the key-encryption key
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE refresh_tokens (
    tenant_id  TEXT    NOT NULL PRIMARY KEY REFERENCES tenants (tenant_id),
    generation INTEGER NOT NULL,
    sealed     BLOB    NOT NULL,                         -- sealed for this generation
    previous   BLOB,                                     -- sealed for the generation before, until the new one has worked
    updated_at INTEGER NOT NULL
) STRICT;

CREATE TABLE suites (
    suite_id   TEXT    NOT NULL PRIMARY KEY,
    tenant_id  TEXT    NOT NULL REFERENCES tenants (tenant_id),
    name       TEXT    NOT NULL,
    status     TEXT    NOT NULL CHECK (status IN ('active', 'revoked')),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;
CREATE INDEX suites_by_tenant ON suites (tenant_id);

CREATE TABLE suite_keys (
    key_id      TEXT    NOT NULL PRIMARY KEY,
    suite_id    TEXT    NOT NULL REFERENCES suites (suite_id),
    public_key  BLOB    NOT NULL UNIQUE,                 -- Ed25519, 32 bytes
    created_at  INTEGER NOT NULL,
    valid_until INTEGER                                  -- set when a newer key replaces this one
) STRICT;
CREATE INDEX suite_keys_by_suite ON suite_keys (suite_id);

CREATE TABLE enrolment_codes (
    code_hash  BLOB    NOT NULL PRIMARY KEY,             -- SHA-256
    tenant_id  TEXT    NOT NULL REFERENCES tenants (tenant_id),
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    used_at    INTEGER,
    used_by    TEXT REFERENCES suites (suite_id)
) STRICT;

-- Grows with every change by an operator, so that a running server notices.
CREATE TABLE revision (
    id    INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    value INTEGER NOT NULL
) STRICT;
INSERT INTO revision (id, value) VALUES (1, 1);
