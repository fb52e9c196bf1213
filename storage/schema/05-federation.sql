-- v5: Server keys, destinations, transactions

-- Signing keys of other servers, each as its owner last told it.
CREATE TABLE server_keys (
    server      TEXT   NOT NULL,
    key_id      TEXT   NOT NULL,
    key         bytea  NOT NULL,
    -- believed until then; 0 for a key that has expired
    valid_until BIGINT NOT NULL,
    -- when it stopped signing; 0 while it does
    expired     BIGINT NOT NULL,
    PRIMARY KEY (server, key_id)
);

-- What servers said of their keys, as they said it: for those who ask us as a notary. By key, the latest answer that holds it.
CREATE TABLE server_key_answers (
    server  TEXT   NOT NULL,
    key_id  TEXT   NOT NULL,
    answer  bytea  NOT NULL,
    fetched BIGINT NOT NULL,
    PRIMARY KEY (server, key_id)
);

-- How it stands with the servers that we send to. Only those that have failed, or were told of devices, have a row.
CREATE TABLE destinations (
    server      TEXT    PRIMARY KEY,
    failures    INTEGER NOT NULL DEFAULT 0,
    -- not before then
    retry_at    BIGINT  NOT NULL DEFAULT 0,
    -- of the last attempt that failed, and of the first one in a row; 0 when the last attempt went well
    failed_at   BIGINT  NOT NULL DEFAULT 0,
    fails_since BIGINT  NOT NULL DEFAULT 0,
    -- stream_id of the last device list update told
    device_list BIGINT  NOT NULL DEFAULT 0
);

-- Rooms of which a destination has not had everything: our events from this position on are unsent.
CREATE TABLE destination_rooms (
    server   TEXT   NOT NULL,
    room_id  TEXT   NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (server, room_id)
);

-- The transaction that a server has not answered: it is sent again as it was, also after a restart.
CREATE TABLE destination_transactions (
    server         TEXT  PRIMARY KEY,
    transaction_id TEXT  NOT NULL,
    body           bytea NOT NULL,
    -- what is had when it is answered: outbound positions, and for each room the position that comes next (JSON)
    holds          bytea NOT NULL
);

-- What waits for one server until it is acknowledged: to-device messages, device lists, events forwarded for others.
CREATE TABLE outbound (
    position BIGINT  PRIMARY KEY,
    server   TEXT    NOT NULL,
    -- the EDU's type; empty for a PDU
    type     TEXT    NOT NULL,
    content  bytea   NOT NULL
);
CREATE INDEX outbound_server ON outbound (server, position);

-- Transactions that we have answered, and how.
CREATE TABLE received_transactions (
    origin         TEXT   NOT NULL,
    transaction_id TEXT   NOT NULL,
    answer         bytea  NOT NULL,
    received       BIGINT NOT NULL,
    PRIMARY KEY (origin, transaction_id)
);
CREATE INDEX received_transactions_received ON received_transactions (received);

-- PDUs that wait for their parents to be fetched.
CREATE TABLE pdus_aside (
    event_id TEXT   PRIMARY KEY,
    room_id  TEXT   NOT NULL,
    origin   TEXT   NOT NULL,
    received BIGINT NOT NULL,
    json     bytea  NOT NULL
);
CREATE INDEX pdus_aside_room ON pdus_aside (room_id, received);
