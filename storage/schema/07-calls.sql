-- v7: Calls

-- What all processes of this server share and nobody else may know: the key of the focus's tokens.
CREATE TABLE secrets (
    name   TEXT PRIMARY KEY,
    secret TEXT NOT NULL
);
