-- Onboarding in the browser. What is looked up by a secret is stored as its SHA-256; what names people is sealed.

-- A wish to connect an organisation, or to authorize its connection anew, until it is fulfilled or has expired.
CREATE TABLE onboardings (
    onboarding_id TEXT    NOT NULL PRIMARY KEY,
    tenant_id     TEXT    NOT NULL,                       -- as Microsoft's discovery says; proven only from step 'signed-in' on
    domain        TEXT    NOT NULL,                       -- as the customer wrote it
    reconnects    INTEGER NOT NULL DEFAULT 0,             -- 1: an organisation that is connected already, by its own people
    wrapped_key   BLOB    NOT NULL,                       -- data key of this row, sealed by the key-encryption key
    details       BLOB    NOT NULL,                       -- sealed: who asks, and who authorized
    connection    TEXT    CHECK (connection IN ('organisation', 'service-account')),
    step          TEXT    NOT NULL CHECK (step IN ('open', 'signed-in', 'authorized', 'completed')),
    account_id    TEXT,                                   -- who signed in, from then on
    signed_in_at  INTEGER,
    refresh_token BLOB,                                   -- sealed; service accounts, until completed
    link_hash     BLOB    UNIQUE,                         -- the link to forward to an administrator
    created_at    INTEGER NOT NULL,
    expires_at    INTEGER NOT NULL
) STRICT;

-- A browser that was sent to Microsoft and has not come back.
CREATE TABLE sign_ins (
    state_hash    BLOB    NOT NULL PRIMARY KEY,
    cookie_hash   BLOB    NOT NULL,                       -- the cookie from which nonce and verifier are derived
    session_hash  BLOB    NOT NULL,
    purpose       TEXT    NOT NULL CHECK (purpose IN ('consent', 'connect', 'status')),
    onboarding_id TEXT    REFERENCES onboardings (onboarding_id) ON DELETE CASCADE,
    expires_at    INTEGER NOT NULL
) STRICT;

CREATE TABLE web_sessions (
    session_hash  BLOB    NOT NULL PRIMARY KEY,
    onboarding_id TEXT    REFERENCES onboardings (onboarding_id) ON DELETE SET NULL,
    tenant_id     TEXT    REFERENCES tenants (tenant_id), -- set when the browser may see this tenant
    account_id    TEXT,                                   -- who signed in; NULL: came by a link
    outcome       TEXT,                                   -- what to tell on the next page
    created_at    INTEGER NOT NULL,
    used_at       INTEGER NOT NULL
) STRICT;

-- Secret links to a tenant's status page.
CREATE TABLE status_links (
    link_hash  BLOB    NOT NULL PRIMARY KEY,
    tenant_id  TEXT    NOT NULL REFERENCES tenants (tenant_id),
    created_at INTEGER NOT NULL,
    expires_at INTEGER                                    -- NULL: until another takes its place
) STRICT;

-- How a tenant came to be connected.
CREATE TABLE connections (
    tenant_id     TEXT    NOT NULL PRIMARY KEY REFERENCES tenants (tenant_id),
    domain        TEXT    NOT NULL,
    account_id    TEXT    NOT NULL,                       -- who authorized
    authorized_at INTEGER NOT NULL,
    details       BLOB    NOT NULL                        -- sealed by the tenant's data key: who asked, who authorized
) STRICT;
