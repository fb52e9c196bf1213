-- v4: Receipts, thread subscriptions, delayed events, pushers, reports

-- How far users have read: one per room, user, type and thread.
CREATE TABLE receipts (
    room_id   TEXT   NOT NULL,
    user_id   TEXT   NOT NULL,
    -- m.read, m.read.private
    type      TEXT   NOT NULL,
    -- empty, "main", or the root of a thread
    thread    TEXT   NOT NULL,
    event_id  TEXT   NOT NULL,
    timestamp BIGINT NOT NULL,
    -- the event's place; 0 where we do not have it
    place     BIGINT NOT NULL,
    position  BIGINT NOT NULL,
    PRIMARY KEY (room_id, user_id, type, thread)
);
CREATE INDEX receipts_position ON receipts (position);
CREATE INDEX receipts_user ON receipts (user_id);
CREATE INDEX receipts_room ON receipts (room_id, position);

-- Threads to which users have subscribed (MSC4306). One that a user has left stays, so that sync can tell, and so that it
-- is known what came before.
CREATE TABLE thread_subscriptions (
    user_id    TEXT    NOT NULL,
    room_id    TEXT    NOT NULL,
    root_id    TEXT    NOT NULL,
    subscribed BOOLEAN NOT NULL,
    automatic  BOOLEAN NOT NULL,
    position   BIGINT  NOT NULL,
    PRIMARY KEY (user_id, room_id, root_id)
);
CREATE INDEX thread_subscriptions_position ON thread_subscriptions (position);
CREATE INDEX thread_subscriptions_user ON thread_subscriptions (user_id, position);

-- Events that are to be sent later (MSC4140). Those that were sent or cancelled stay for a while, to be asked about.
CREATE TABLE delayed_events (
    delay_id       TEXT   PRIMARY KEY,
    user_id        TEXT   NOT NULL,
    device_id      TEXT   NOT NULL,
    room_id        TEXT   NOT NULL,
    type           TEXT   NOT NULL,
    state_key      TEXT,
    content        bytea  NOT NULL,
    -- of the request that made it; none for state
    path           TEXT   NOT NULL,
    transaction_id TEXT,
    -- for how many ms it is to be sticky once it is sent (MSC4354)
    sticky         BIGINT NOT NULL DEFAULT 0,
    delay          BIGINT NOT NULL,
    -- since when the delay runs, as last written
    since          BIGINT NOT NULL,
    due            BIGINT NOT NULL,
    -- none while it waits; send, cancel or error when it does not any more
    outcome        TEXT,
    finished       BIGINT,
    event_id       TEXT,
    error          bytea
);
CREATE INDEX delayed_events_due ON delayed_events (due) WHERE outcome IS NULL;
CREATE INDEX delayed_events_user ON delayed_events (user_id, since);
CREATE UNIQUE INDEX delayed_events_transaction ON delayed_events (user_id, device_id, room_id, path, transaction_id) WHERE transaction_id IS NOT NULL;
CREATE INDEX delayed_events_finished ON delayed_events (finished) WHERE finished IS NOT NULL;

-- Where users' notifications are sent.
CREATE TABLE pushers (
    user_id             TEXT    NOT NULL,
    app_id              TEXT    NOT NULL,
    push_key            TEXT    NOT NULL,
    device_id           TEXT    NOT NULL,
    kind                TEXT    NOT NULL,
    app_display_name    TEXT    NOT NULL,
    device_display_name TEXT    NOT NULL,
    profile_tag         TEXT    NOT NULL,
    lang                TEXT    NOT NULL,
    data                bytea   NOT NULL,
    enabled             BOOLEAN NOT NULL,
    created             BIGINT  NOT NULL,
    -- of e-mail pushers: the position up to which was mailed, when to look again (0: nothing is missed), when the last
    -- mail left, and for how many ms to wait after it
    mail_cursor         BIGINT  NOT NULL DEFAULT 0,
    mail_due            BIGINT  NOT NULL DEFAULT 0,
    mail_sent           BIGINT  NOT NULL DEFAULT 0,
    mail_pause          BIGINT  NOT NULL DEFAULT 0,
    PRIMARY KEY (user_id, app_id, push_key)
);
CREATE INDEX pushers_device ON pushers (user_id, device_id);
CREATE INDEX pushers_mail_due ON pushers (mail_due) WHERE mail_due > 0;

-- What users have reported to the administrators.
CREATE TABLE reports (
    number   BIGINT PRIMARY KEY,
    by_user  TEXT   NOT NULL,
    -- empty where a user is reported
    room_id  TEXT   NOT NULL,
    -- empty where a room or a user is reported
    event_id TEXT   NOT NULL,
    user_id  TEXT   NOT NULL,
    reason   TEXT   NOT NULL,
    score    BIGINT,
    received BIGINT NOT NULL
);
