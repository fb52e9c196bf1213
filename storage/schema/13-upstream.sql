-- v13: Sign-in with identity providers

-- What is good once and for a short while: a sign-in on its way to the provider, one that came back, and which session a
-- login token belongs to. Of the secrets only the SHA-256 is kept.
CREATE TABLE upstream_passes (
    hash    bytea  PRIMARY KEY,
    -- begun, done, login, leaving, logout
    kind    TEXT   NOT NULL,
    -- the SHA-256 of the secret in the cookie of the browser that alone may use it; empty: whoever has the secret
    browser bytea  NOT NULL,
    -- JSON, of clientapi/upstream
    content bytea  NOT NULL,
    expires BIGINT NOT NULL
);
CREATE INDEX upstream_passes_expires ON upstream_passes (expires);

-- A session at a provider, from which sessions of ours came.
CREATE TABLE upstream_sessions (
    session  TEXT   PRIMARY KEY,
    provider TEXT   NOT NULL,
    -- who it is there, and what the provider calls the session (empty where it does not say)
    subject  TEXT   NOT NULL,
    sid      TEXT   NOT NULL,
    user_id  TEXT   NOT NULL,
    browser  bytea  NOT NULL,
    -- what was said at the sign-in, to be shown again at the sign-out; it opens nothing
    id_token TEXT   NOT NULL,
    created  BIGINT NOT NULL
);
CREATE INDEX upstream_sessions_subject ON upstream_sessions (provider, subject);
CREATE INDEX upstream_sessions_browser ON upstream_sessions (browser, created);
CREATE INDEX upstream_sessions_user ON upstream_sessions (user_id);

CREATE TABLE upstream_devices (
    user_id   TEXT NOT NULL,
    device_id TEXT NOT NULL,
    session   TEXT NOT NULL,
    PRIMARY KEY (user_id, device_id)
);
CREATE INDEX upstream_devices_session ON upstream_devices (session);
