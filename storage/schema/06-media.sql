-- v6: Media

-- Our own media and copies of others'. Reserved and not yet uploaded: no hash.
CREATE TABLE media (
    server       TEXT    NOT NULL,
    media_id     TEXT    NOT NULL,
    user_id      TEXT    NOT NULL,
    content_type TEXT    NOT NULL,
    file_name    TEXT    NOT NULL,
    size         BIGINT  NOT NULL,
    hash         TEXT,
    created      BIGINT  NOT NULL,
    -- until when a reservation may be filled
    expires      BIGINT,
    quarantined  BOOLEAN NOT NULL DEFAULT false,
    PRIMARY KEY (server, media_id)
);
CREATE INDEX media_user ON media (user_id, created);
CREATE INDEX media_hash ON media (hash);

CREATE TABLE thumbnails (
    server       TEXT    NOT NULL,
    media_id     TEXT    NOT NULL,
    width        INTEGER NOT NULL,
    height       INTEGER NOT NULL,
    method       TEXT    NOT NULL,
    animated     BOOLEAN NOT NULL,
    content_type TEXT    NOT NULL,
    size         BIGINT  NOT NULL,
    hash         TEXT    NOT NULL,
    PRIMARY KEY (server, media_id, width, height, method, animated)
);
