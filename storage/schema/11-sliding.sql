-- v11: Sliding sync

-- What a device's sliding sync was told, as of a while ago: written now and then, read after a restart.
CREATE TABLE sliding_connections (
    user_id    TEXT   NOT NULL,
    device_id  TEXT   NOT NULL,
    -- as the client names it
    name       TEXT   NOT NULL,
    -- as we name it, anew with each first request
    connection TEXT   NOT NULL,
    sequence   BIGINT NOT NULL,
    position   BIGINT NOT NULL,
    -- ms since 1970
    used       BIGINT NOT NULL,
    -- what each room was sent, in a form that only sync reads
    state      bytea  NOT NULL,
    PRIMARY KEY (user_id, device_id, name)
);
CREATE INDEX sliding_connections_used ON sliding_connections (used);
