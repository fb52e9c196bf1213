-- v6: Media

-- Our own media and copies of others'. Reserved and not yet uploaded: no hash.
CREATE TABLE media (
    server         TEXT    NOT NULL,
    media_id       TEXT    NOT NULL,
    -- who uploaded it; empty for copies and for pictures of previews
    user_id        TEXT    NOT NULL,
    content_type   TEXT    NOT NULL,
    file_name      TEXT    NOT NULL,
    size           BIGINT  NOT NULL,
    hash           TEXT,
    created        BIGINT  NOT NULL,
    -- until when a reservation may be filled
    expires        BIGINT,
    -- when it was last asked for, about
    accessed       BIGINT  NOT NULL,
    -- served to those with a token only
    authenticated  BOOLEAN NOT NULL,
    -- who took it out of sight
    quarantined_by TEXT,
    -- not to be taken out of sight
    protected      BOOLEAN NOT NULL DEFAULT false,
    PRIMARY KEY (server, media_id)
);
CREATE INDEX media_user ON media (user_id, created, size);
CREATE INDEX media_hash ON media (hash);
CREATE INDEX media_accessed ON media (accessed);
CREATE INDEX media_reserved ON media (expires) WHERE hash IS NULL;

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
CREATE INDEX thumbnails_hash ON thumbnails (hash);

-- Blobs whose last row may be gone: looked at, and taken from the disk, a little later.
CREATE TABLE unused_blobs (
    hash TEXT PRIMARY KEY
);

-- What was found behind a link, in a span of time.
CREATE TABLE previews (
    url     TEXT   NOT NULL,
    bucket  BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    answer  bytea  NOT NULL,
    PRIMARY KEY (url, bucket)
);
CREATE INDEX previews_expires ON previews (expires);
