-- v1: Rooms, events, state

-- The one counter: positions in commit order, and numbers in blocks.
CREATE TABLE counter (
    id          INTEGER PRIMARY KEY,
    position    BIGINT NOT NULL,
    number      BIGINT NOT NULL,
    incarnation TEXT   NOT NULL
);

CREATE TABLE rooms (
    room_id      TEXT    PRIMARY KEY,
    version      TEXT    NOT NULL,
    -- the current state is the head of a chain
    chain        BIGINT  NOT NULL,
    sequence     BIGINT  NOT NULL,
    -- forward extremities: event IDs, separated by blanks
    extremities  TEXT    NOT NULL,
    depth        BIGINT  NOT NULL,
    -- whether our server has a joined member
    joined       BOOLEAN NOT NULL,
    listed       BOOLEAN NOT NULL DEFAULT false,
    -- the place before which history has been purged; 0: nothing has
    purged       BIGINT  NOT NULL DEFAULT 0
);

CREATE TABLE events (
    number           BIGINT   PRIMARY KEY,
    event_id         TEXT     NOT NULL UNIQUE,
    room_id          TEXT     NOT NULL,
    -- when it became news; none for what is not news
    position         BIGINT,
    -- where it is paged; none for outliers and the rejected
    place            BIGINT,
    -- 0 outlier, 1 accepted, 2 soft-failed, 3 rejected
    standing         SMALLINT NOT NULL,
    type             TEXT     NOT NULL,
    state_key        TEXT,
    sender           TEXT     NOT NULL,
    depth            BIGINT   NOT NULL,
    timestamp        BIGINT   NOT NULL,
    -- the snapshot before the event; none for outliers
    chain            BIGINT,
    sequence         BIGINT,
    -- the snapshot after it, where that differs
    after_chain      BIGINT,
    after_sequence   BIGINT,
    redacted_by      TEXT,
    relates_to       TEXT,
    rel_type         TEXT,
    device_id        TEXT,
    path             TEXT,
    transaction_id   TEXT,
    -- why it was rejected
    rule             TEXT,
    json             bytea    NOT NULL,
    -- of a sticky event (MSC4354): until when it is, in ms since 1970 by our clock
    sticky_until     BIGINT
);
CREATE INDEX events_position ON events (position) WHERE position IS NOT NULL;
-- what is not shown can only be found by its room when the room is removed
CREATE INDEX events_unplaced ON events (room_id) WHERE place IS NULL;
CREATE INDEX events_place ON events (room_id, place, number) WHERE place IS NOT NULL;
CREATE INDEX events_threads ON events (room_id, place, number) WHERE place IS NOT NULL AND rel_type = 'm.thread';
-- wide enough to count and to choose without reading the events
CREATE INDEX events_relations ON events (relates_to, rel_type, place, number, sender, standing, redacted_by) WHERE relates_to IS NOT NULL;
CREATE INDEX events_sticky ON events (room_id, sticky_until) WHERE sticky_until IS NOT NULL;
CREATE UNIQUE INDEX events_transaction ON events (sender, device_id, transaction_id, room_id, path) WHERE transaction_id IS NOT NULL;

-- A redaction whose target we do not have yet, or who was not yet proved entitled.
CREATE TABLE waiting_redactions (
    target_id    TEXT NOT NULL,
    redaction_id TEXT NOT NULL,
    room_id      TEXT NOT NULL,
    PRIMARY KEY (target_id, redaction_id)
);

-- Backward extremities: parents that we do not hold, and the place of the child that names them.
CREATE TABLE edges (
    room_id   TEXT   NOT NULL,
    missing_id TEXT  NOT NULL,
    event_id  TEXT   NOT NULL,
    place     BIGINT NOT NULL,
    PRIMARY KEY (room_id, missing_id, event_id)
);

CREATE TABLE state_chains (
    chain           BIGINT  PRIMARY KEY,
    room_id         TEXT    NOT NULL,
    -- the snapshot on which the chain stands; none for a base
    parent_chain    BIGINT,
    parent_sequence BIGINT,
    -- how many chains lie beneath
    height          BIGINT  NOT NULL,
    -- written by federation, not yet adopted by the room
    unattached      BOOLEAN NOT NULL DEFAULT false,
    created         BIGINT  NOT NULL
);
CREATE INDEX state_chains_room ON state_chains (room_id);
CREATE INDEX state_chains_unattached ON state_chains (created) WHERE unattached;

-- A chain is a log. An entry with a position is also a change of the current state: old event to event.
CREATE TABLE state_entries (
    chain     BIGINT NOT NULL,
    sequence  BIGINT NOT NULL,
    type      TEXT   NOT NULL,
    state_key TEXT   NOT NULL,
    -- the event's number, or none where the key was removed
    event     BIGINT,
    position  BIGINT,
    old_event BIGINT,
    PRIMARY KEY (chain, sequence)
-- only: postgres
);
-- only: sqlite
) WITHOUT ROWID;
-- one key of a snapshot is read from the index alone
CREATE UNIQUE INDEX state_entries_key ON state_entries (chain, type, state_key, sequence, event);
CREATE INDEX state_entries_position ON state_entries (position) WHERE position IS NOT NULL;

-- Membership, asked by room and by user; also invites to rooms that we are not in.
CREATE TABLE memberships (
    room_id    TEXT    NOT NULL,
    user_id    TEXT    NOT NULL,
    membership TEXT    NOT NULL,
    event_id   TEXT    NOT NULL,
    event      BIGINT  NOT NULL,
    sender     TEXT    NOT NULL,
    server     TEXT    NOT NULL,
    -- when it became news; none where it came with an adopted state
    position   BIGINT,
    -- state sent along with an invite or knock to a room that we are not in: a JSON array
    stripped   bytea,
    forgotten  BOOLEAN NOT NULL DEFAULT false,
    PRIMARY KEY (room_id, user_id)
);
CREATE INDEX memberships_user ON memberships (user_id, membership);
CREATE INDEX memberships_position ON memberships (position) WHERE position IS NOT NULL;
CREATE INDEX memberships_room ON memberships (room_id, membership, server);

-- The spans of positions in which a server had a joined member.
CREATE TABLE room_servers (
    room_id TEXT   NOT NULL,
    server  TEXT   NOT NULL,
    since   BIGINT NOT NULL,
    until   BIGINT,
    PRIMARY KEY (room_id, server, since)
);
CREATE INDEX room_servers_server ON room_servers (server);

CREATE TABLE aliases (
    alias   TEXT   PRIMARY KEY,
    room_id TEXT   NOT NULL,
    creator TEXT   NOT NULL,
    created BIGINT NOT NULL
);
CREATE INDEX aliases_room ON aliases (room_id);

-- Upgrades of rooms that have begun: the new room is there, and what follows is not all done. Gone when it is.
CREATE TABLE upgrades (
    old_room TEXT   PRIMARY KEY,
    new_room TEXT   NOT NULL,
    by_user  TEXT   NOT NULL,
    begun    BIGINT NOT NULL
);

-- How far each persistent follower has read.
CREATE TABLE cursors (
    name     TEXT   PRIMARY KEY,
    position BIGINT NOT NULL
);

-- Who alone may write rooms, send, push, keep timers.
CREATE TABLE leases (
    name   TEXT   PRIMARY KEY,
    holder TEXT   NOT NULL,
    epoch  BIGINT NOT NULL,
    until  BIGINT NOT NULL
);
