-- v14: Account validity

-- Until when an account is good. Who has no row is good for ever. Times in ms since 1970.
CREATE TABLE validity (
    user_id    TEXT    PRIMARY KEY,
    until      BIGINT  NOT NULL,
    -- whether it counts: not while validity is switched off, nor for those whom the configuration lets be
    enforced   BOOLEAN NOT NULL DEFAULT true,
    -- whether reminders are mailed
    reminders  BOOLEAN NOT NULL DEFAULT true,
    -- how long before the end (ms) the newest of them was due; 0: none has been mailed since the last renewal
    reminded   BIGINT  NOT NULL DEFAULT 0,
    -- the SHA-256 of what renews, until another is made; used: it has renewed already
    token_hash bytea   UNIQUE,
    used       BOOLEAN NOT NULL DEFAULT false,
    -- 0: nobody needed to hear of it
    position   BIGINT  NOT NULL
);
CREATE INDEX validity_until ON validity (until);
CREATE INDEX validity_position ON validity (position);

-- Whose address it was when the account was closed. Not the address is kept, but a hash under a secret of this server's own.
CREATE TABLE former_addresses (
    hash    bytea  NOT NULL,
    user_id TEXT   NOT NULL,
    closed  BIGINT NOT NULL,
    PRIMARY KEY (hash, user_id)
);
CREATE INDEX former_addresses_user ON former_addresses (user_id);
