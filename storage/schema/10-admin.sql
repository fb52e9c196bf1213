-- v10: Administration

-- Rooms that nobody of ours may join, whether we know them or not.
CREATE TABLE blocked_rooms (
    room_id TEXT   PRIMARY KEY,
    by_user TEXT   NOT NULL,
    blocked BIGINT NOT NULL
);

-- Rooms that are being removed: they take nothing any more, whatever crashes.
CREATE TABLE closing_rooms (
    room_id TEXT PRIMARY KEY
);

-- A user's own rate limit, in place of the general ones; 0 and 0 is none.
CREATE TABLE rate_overrides (
    user_id    TEXT   PRIMARY KEY,
    per_second BIGINT NOT NULL,
    burst      BIGINT NOT NULL
);

-- Who a user is at an identity provider.
CREATE TABLE external_ids (
    provider    TEXT NOT NULL,
    external_id TEXT NOT NULL,
    user_id     TEXT NOT NULL,
    PRIMARY KEY (provider, external_id)
);
CREATE INDEX external_ids_user ON external_ids (user_id);

-- What administrators have set going that takes a while. Kept for a day after its end.
CREATE TABLE jobs (
    job_id   TEXT   PRIMARY KEY,
    -- delete_room, purge_history, redact_user
    kind     TEXT   NOT NULL,
    -- the room or the user that it is about
    subject  TEXT   NOT NULL,
    by_user  TEXT   NOT NULL,
    -- what was asked for, and what has been done so far: JSON
    wish     bytea  NOT NULL,
    result   bytea  NOT NULL,
    -- scheduled, active, complete, failed
    status   TEXT   NOT NULL,
    error    TEXT   NOT NULL DEFAULT '',
    created  BIGINT NOT NULL,
    finished BIGINT
);
CREATE INDEX jobs_open ON jobs (created) WHERE finished IS NULL;
CREATE INDEX jobs_subject ON jobs (subject, kind);
