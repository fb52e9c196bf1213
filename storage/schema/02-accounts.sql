-- v2: Accounts, devices, account data

CREATE TABLE accounts (
    user_id     TEXT    PRIMARY KEY,
    -- argon2id in its usual text form; empty where nobody can log in with a password
    password    TEXT    NOT NULL,
    created     BIGINT  NOT NULL,
    admin       BOOLEAN NOT NULL DEFAULT false,
    -- for ever: the name is never given to anybody else
    deactivated BOOLEAN NOT NULL DEFAULT false,
    erased      BOOLEAN NOT NULL DEFAULT false,
    locked      BOOLEAN NOT NULL DEFAULT false,
    suspended   BOOLEAN NOT NULL DEFAULT false,
    -- told that all is done what it asks for, while nothing is
    shadowed    BOOLEAN NOT NULL DEFAULT false,
    -- bot, support, or empty
    user_type   TEXT    NOT NULL DEFAULT '',
    -- the application service that made it, or empty
    service_id  TEXT    NOT NULL DEFAULT ''
);

CREATE TABLE devices (
    user_id      TEXT   NOT NULL,
    device_id    TEXT   NOT NULL,
    display_name TEXT   NOT NULL,
    created      BIGINT NOT NULL,
    -- written once in a few minutes, not with each request
    seen         BIGINT NOT NULL,
    address      TEXT   NOT NULL,
    agent        TEXT   NOT NULL,
    PRIMARY KEY (user_id, device_id)
);

-- Devices that are gone, so that whoever serves them learns of it; kept for a week.
CREATE TABLE ended_devices (
    position  BIGINT PRIMARY KEY,
    user_id   TEXT   NOT NULL,
    device_id TEXT   NOT NULL,
    ended     BIGINT NOT NULL
);
CREATE INDEX ended_devices_ended ON ended_devices (ended);

-- A pair of tokens. Only their SHA-256 is kept.
CREATE TABLE tokens (
    access_hash  bytea   PRIMARY KEY,
    -- none where the client does not refresh
    refresh_hash bytea   UNIQUE,
    user_id      TEXT    NOT NULL,
    device_id    TEXT    NOT NULL,
    created      BIGINT  NOT NULL,
    -- of the access token, in ms since 1970; none: never
    expires      BIGINT,
    -- the pair that this one replaces, until this one has been used
    replaces     bytea,
    -- replaced by a pair that has been used: coming back with it means that somebody stole it
    spent        BOOLEAN NOT NULL DEFAULT false,
    -- the OAuth 2.0 client to which it was given, and for what; empty where a device logged in without one
    client_id    TEXT    NOT NULL DEFAULT '',
    scope        TEXT    NOT NULL DEFAULT ''
);
CREATE INDEX tokens_device ON tokens (user_id, device_id);
CREATE INDEX tokens_client ON tokens (client_id) WHERE client_id <> '';

-- Tokens for one purpose: login (m.login.token), openid.
CREATE TABLE passes (
    hash      bytea  PRIMARY KEY,
    purpose   TEXT   NOT NULL,
    user_id   TEXT   NOT NULL,
    -- the device with which it ends; empty: with none
    device_id TEXT   NOT NULL DEFAULT '',
    expires   BIGINT NOT NULL
);
CREATE INDEX passes_expires ON passes (expires);
CREATE INDEX passes_device ON passes (user_id, device_id) WHERE device_id <> '';

CREATE TABLE registration_tokens (
    token     TEXT   PRIMARY KEY,
    -- none: without bound
    allowed   BIGINT,
    -- sessions that have shown the token, and not yet registered
    pending   BIGINT NOT NULL DEFAULT 0,
    completed BIGINT NOT NULL DEFAULT 0,
    expires   BIGINT
);

-- User-interactive authentication under way. What a client sent is kept as a hash only.
CREATE TABLE confirmations (
    session   TEXT   PRIMARY KEY,
    user_id   TEXT   NOT NULL,
    device_id TEXT   NOT NULL,
    operation TEXT   NOT NULL,
    -- hash of what must not change between the stages; none until the first is passed
    bound     bytea,
    -- passed stages, separated by blanks
    passed    TEXT   NOT NULL,
    -- the registration token that was shown
    token     TEXT   NOT NULL DEFAULT '',
    -- the proof of an e-mail address that was shown, and the address
    validation TEXT  NOT NULL DEFAULT '',
    address   TEXT   NOT NULL DEFAULT '',
    created   BIGINT NOT NULL
);
CREATE INDEX confirmations_created ON confirmations (created);

-- Numbers used once, of the shared-secret registration.
CREATE TABLE nonces (
    nonce   TEXT   PRIMARY KEY,
    expires BIGINT NOT NULL
);

-- A field of a user's profile: JSON.
CREATE TABLE profiles (
    user_id TEXT  NOT NULL,
    field   TEXT  NOT NULL,
    value   bytea NOT NULL,
    PRIMARY KEY (user_id, field)
);

CREATE TABLE account_data (
    user_id  TEXT    NOT NULL,
    -- empty for global account data
    room_id  TEXT    NOT NULL,
    type     TEXT    NOT NULL,
    content  bytea   NOT NULL,
    deleted  BOOLEAN NOT NULL DEFAULT false,
    position BIGINT  NOT NULL,
    PRIMARY KEY (user_id, room_id, type)
);
CREATE INDEX account_data_position ON account_data (position);

-- The ID is a hash of the filter: the same filter has the same ID.
CREATE TABLE filters (
    user_id   TEXT  NOT NULL,
    filter_id TEXT  NOT NULL,
    json      bytea NOT NULL,
    PRIMARY KEY (user_id, filter_id)
);

-- E-mail addresses and telephone numbers of this server's users.
CREATE TABLE threepids (
    medium    TEXT   NOT NULL,
    address   TEXT   NOT NULL,
    user_id   TEXT   NOT NULL,
    validated BIGINT NOT NULL,
    added     BIGINT NOT NULL,
    PRIMARY KEY (medium, address)
);
CREATE INDEX threepids_user ON threepids (user_id);

-- Proofs, under way or done, that somebody reads what is sent to an address. Secrets and tokens are kept as SHA-256 only.
CREATE TABLE validations (
    sid         TEXT   PRIMARY KEY,
    -- register, add, password
    purpose     TEXT   NOT NULL,
    medium      TEXT   NOT NULL,
    address     TEXT   NOT NULL,
    -- who asked; empty where nobody is logged in
    user_id     TEXT   NOT NULL,
    next_link   TEXT   NOT NULL,
    begun       BIGINT NOT NULL,
    validated   BIGINT,
    secret_hash bytea  NOT NULL,
    token_hash  bytea  NOT NULL,
    attempt     BIGINT NOT NULL
);
CREATE UNIQUE INDEX validations_same ON validations (secret_hash, purpose, medium, address, user_id);
CREATE INDEX validations_begun ON validations (begun);

-- Whose words those who come later do not read.
CREATE INDEX accounts_erased ON accounts (user_id) WHERE erased;
