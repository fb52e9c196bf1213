-- v9: Search

-- What can be found: one entry for each event with words in it. On SQLite the words themselves lie in the full-text table
-- search_words, which is made when a build that knows FTS5 opens the database.
CREATE TABLE search_entries (
    number  BIGINT   PRIMARY KEY,
    room_id TEXT     NOT NULL,
    place   BIGINT   NOT NULL,
    -- 1 content.body, 2 content.name, 3 content.topic
    -- only: postgres
    words   tsvector NOT NULL,
    key     SMALLINT NOT NULL
);
-- only: postgres
CREATE INDEX search_entries_words ON search_entries USING gin (words);
