-- v12: OAuth 2.0, browsers that are signed in, meeting places of two devices

-- Programs that registered themselves. The ID is a hash of what they said of themselves: the same program has the same ID.
CREATE TABLE oauth_clients (
    client_id TEXT   PRIMARY KEY,
    metadata  bytea  NOT NULL,
    -- when it last registered, in ms since 1970
    seen      BIGINT NOT NULL
);
CREATE INDEX oauth_clients_seen ON oauth_clients (seen);

-- Authorization codes. Only their SHA-256 is kept, until long after they were used, so that a second use is noticed.
CREATE TABLE oauth_codes (
    hash         bytea   PRIMARY KEY,
    client_id    TEXT    NOT NULL,
    user_id      TEXT    NOT NULL,
    redirect_uri TEXT    NOT NULL,
    scope        TEXT    NOT NULL,
    device_id    TEXT    NOT NULL,
    -- the S256 challenge of PKCE
    challenge    TEXT    NOT NULL,
    -- the session at an identity provider with which the user signed in; empty where there was none
    upstream     TEXT    NOT NULL,
    expires      BIGINT  NOT NULL,
    used         BOOLEAN NOT NULL DEFAULT false
);
CREATE INDEX oauth_codes_expires ON oauth_codes (expires);
CREATE INDEX oauth_codes_client ON oauth_codes (client_id);

-- Devices without a browser that wait for somebody to let them in. Of both codes only the SHA-256 is kept.
CREATE TABLE oauth_device_grants (
    hash      bytea   PRIMARY KEY,
    user_code bytea   NOT NULL UNIQUE,
    client_id TEXT    NOT NULL,
    scope     TEXT    NOT NULL,
    device_id TEXT    NOT NULL,
    -- who asked, for whoever is to decide
    address   TEXT    NOT NULL,
    agent     TEXT    NOT NULL,
    -- pending, allowed, denied
    state     TEXT    NOT NULL,
    -- who let it in, and the session at an identity provider with which they had signed in; empty until then
    user_id   TEXT    NOT NULL,
    upstream  TEXT    NOT NULL,
    polled    BIGINT  NOT NULL,
    expires   BIGINT  NOT NULL
);
CREATE INDEX oauth_device_grants_expires ON oauth_device_grants (expires);
CREATE INDEX oauth_device_grants_client ON oauth_device_grants (client_id);

-- Browsers in which somebody is signed in to the account pages. Only the cookie's SHA-256 is kept.
CREATE TABLE browser_sessions (
    hash    bytea  PRIMARY KEY,
    user_id TEXT   NOT NULL,
    -- the session at an identity provider with which the user signed in; empty where there was none
    upstream TEXT  NOT NULL,
    -- when the user last showed who they are
    proved  BIGINT NOT NULL,
    seen    BIGINT NOT NULL,
    address TEXT   NOT NULL,
    agent   TEXT   NOT NULL
);
CREATE INDEX browser_sessions_user ON browser_sessions (user_id);
CREATE INDEX browser_sessions_upstream ON browser_sessions (upstream) WHERE upstream <> '';
CREATE INDEX browser_sessions_seen ON browser_sessions (seen);

-- What users have allowed on the account pages to be done once, for a short while, without further confirmation.
CREATE TABLE approvals (
    user_id TEXT   NOT NULL,
    action  TEXT   NOT NULL,
    expires BIGINT NOT NULL,
    PRIMARY KEY (user_id, action)
);

-- Meeting places of two devices, of which one lets the other in: each holds one message.
CREATE TABLE rendezvous (
    id       TEXT   PRIMARY KEY,
    content  bytea  NOT NULL,
    -- counts the messages
    sequence BIGINT NOT NULL,
    created  BIGINT NOT NULL,
    changed  BIGINT NOT NULL,
    expires  BIGINT NOT NULL
);
CREATE INDEX rendezvous_expires ON rendezvous (expires);
