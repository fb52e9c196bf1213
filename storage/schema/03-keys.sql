-- v3: Keys, to-device, key backup

-- Identity keys as their device signed them; also copies of other servers' users' devices.
CREATE TABLE device_keys (
    user_id      TEXT  NOT NULL,
    device_id    TEXT  NOT NULL,
    json         bytea NOT NULL,
    -- of other servers' devices; ours have theirs in devices
    display_name TEXT  NOT NULL DEFAULT '',
    PRIMARY KEY (user_id, device_id)
);

CREATE TABLE one_time_keys (
    user_id   TEXT   NOT NULL,
    device_id TEXT   NOT NULL,
    algorithm TEXT   NOT NULL,
    key_id    TEXT   NOT NULL,
    json      bytea  NOT NULL,
    added     BIGINT NOT NULL,
    PRIMARY KEY (user_id, device_id, algorithm, key_id)
);

CREATE TABLE fallback_keys (
    user_id   TEXT    NOT NULL,
    device_id TEXT    NOT NULL,
    algorithm TEXT    NOT NULL,
    key_id    TEXT    NOT NULL,
    json      bytea   NOT NULL,
    used      BOOLEAN NOT NULL DEFAULT false,
    PRIMARY KEY (user_id, device_id, algorithm)
);

-- master, self_signing, user_signing; also copies of other servers' users' keys.
CREATE TABLE cross_signing_keys (
    user_id TEXT  NOT NULL,
    usage   TEXT  NOT NULL,
    -- the public key, which is also the name after "ed25519:"
    key     TEXT  NOT NULL,
    json    bytea NOT NULL,
    PRIMARY KEY (user_id, usage)
);

-- Signatures that came after the key they sign.
CREATE TABLE key_signatures (
    user_id      TEXT NOT NULL,
    -- a device ID, or the public part of a cross-signing key
    key_name     TEXT NOT NULL,
    signer_id    TEXT NOT NULL,
    signer_key   TEXT NOT NULL,
    signature    TEXT NOT NULL,
    PRIMARY KEY (user_id, key_name, signer_id, signer_key)
);

-- The newest change of each device; device_id is empty for the user's cross-signing keys, and for
-- lists of other servers' users.
CREATE TABLE device_changes (
    user_id   TEXT   NOT NULL,
    device_id TEXT   NOT NULL,
    position  BIGINT NOT NULL,
    PRIMARY KEY (user_id, device_id)
);
CREATE INDEX device_changes_position ON device_changes (position);

-- Device lists of other servers' users.
CREATE TABLE remote_device_lists (
    user_id   TEXT    PRIMARY KEY,
    stream_id BIGINT  NOT NULL,
    -- the copy has to be fetched before it is believed
    stale     BOOLEAN NOT NULL
);

CREATE TABLE to_device (
    position  BIGINT NOT NULL,
    user_id   TEXT   NOT NULL,
    device_id TEXT   NOT NULL,
    -- {"sender", "type", "content"}
    json      bytea  NOT NULL,
    PRIMARY KEY (user_id, device_id, position)
);
CREATE INDEX to_device_position ON to_device (position);

-- What was sent, so that it is sent once: of our devices a transaction, of other servers a message ID. Kept for a month.
CREATE TABLE to_device_sent (
    sender  TEXT   NOT NULL,
    name    TEXT   NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (sender, name)
);
CREATE INDEX to_device_sent_created ON to_device_sent (created);

CREATE TABLE backup_versions (
    user_id   TEXT    NOT NULL,
    version   BIGINT  NOT NULL,
    algorithm TEXT    NOT NULL,
    auth_data bytea   NOT NULL,
    etag      BIGINT  NOT NULL,
    deleted   BOOLEAN NOT NULL DEFAULT false,
    PRIMARY KEY (user_id, version)
);

CREATE TABLE backup_keys (
    user_id             TEXT    NOT NULL,
    version             BIGINT  NOT NULL,
    room_id             TEXT    NOT NULL,
    session_id          TEXT    NOT NULL,
    first_message_index BIGINT  NOT NULL,
    forwarded_count     BIGINT  NOT NULL,
    is_verified         BOOLEAN NOT NULL,
    session_data        bytea   NOT NULL,
    PRIMARY KEY (user_id, version, room_id, session_id)
);

-- A user's device that nobody holds: it receives keys until somebody logs in and takes them over (MSC3814). One for each user.
CREATE TABLE dehydrated_devices (
    user_id   TEXT  PRIMARY KEY,
    device_id TEXT  NOT NULL,
    -- JSON, for the user's other devices only
    data      bytea NOT NULL
);
