-- v7: Calls

-- What all processes of this server share and nobody else may know: the key of the focus's tokens.
CREATE TABLE secrets (
    name   TEXT PRIMARY KEY,
    secret TEXT NOT NULL
);

-- What administrators ordered for the calls of a room on this server's foci, beside what the room itself says.
CREATE TABLE call_orders (
    room_id TEXT   PRIMARY KEY,
    -- JSON, of the form of the room's own settings
    orders  TEXT   NOT NULL,
    by_user TEXT   NOT NULL,
    since   BIGINT NOT NULL
);

-- Until when a call, by its name on the foci, may be joined by those who may not begin one: somebody who may has asked for a token.
CREATE TABLE call_starts (
    call  TEXT   PRIMARY KEY,
    until BIGINT NOT NULL
);

-- Delayed leaves that the foci look after: one for each participant, the newest. Times in ms since 1970.
CREATE TABLE call_leaves (
    call     TEXT   NOT NULL,
    identity TEXT   NOT NULL,
    room_id  TEXT   NOT NULL,
    user_id  TEXT   NOT NULL,
    -- by which the participant is known too, where it calls itself otherwise; or empty
    device_id TEXT  NOT NULL,
    delay_id TEXT   NOT NULL,
    -- of the delayed event
    timeout  BIGINT NOT NULL,
    -- when it was handed over
    since    BIGINT NOT NULL,
    -- when a focus last had the participant; 0: it has not come yet
    seen     BIGINT NOT NULL DEFAULT 0,
    -- when the event is to be restarted next
    restart  BIGINT NOT NULL,
    PRIMARY KEY (call, identity)
);

-- Who was in which call, without a word of what was said. Times in ms since 1970.
CREATE TABLE call_records (
    -- the participant's name on the focus
    session   TEXT   PRIMARY KEY,
    -- one run of the call on the focus
    call_sid  TEXT   NOT NULL,
    call      TEXT   NOT NULL,
    room_id   TEXT   NOT NULL,
    user_id   TEXT   NOT NULL,
    device_id TEXT   NOT NULL,
    -- the process where it was
    focus     TEXT   NOT NULL,
    joined    BIGINT NOT NULL,
    -- none while it is there
    ended     BIGINT,
    -- why it ended
    reason    TEXT   NOT NULL DEFAULT '',
    -- by which rule it was let in
    rule      TEXT   NOT NULL,
    -- kinds of tracks that it published, with commas between
    kinds     TEXT   NOT NULL DEFAULT ''
);
CREATE INDEX call_records_room ON call_records (room_id, joined);
CREATE INDEX call_records_user ON call_records (user_id, joined);
CREATE INDEX call_records_joined ON call_records (joined);
CREATE INDEX call_records_ended ON call_records (ended);

-- The focus processes that are alive: each beats once a second, and is taken for dead when it has not for three.
CREATE TABLE foci (
    process TEXT   PRIMARY KEY,
    -- where other processes reach its signalling
    address TEXT   NOT NULL,
    beat    BIGINT NOT NULL
);

-- On which of them a call lives, by its name on the foci. What names a process that is no more counts for nothing.
CREATE TABLE call_homes (
    call    TEXT PRIMARY KEY,
    process TEXT NOT NULL
);
CREATE INDEX call_homes_process ON call_homes (process);
