-- v4: Receipts, notifications, delayed events

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
