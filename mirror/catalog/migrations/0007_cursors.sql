-- How far this mirror has followed the journal of another one: `feed` is the identity of that journal.
CREATE TABLE cursors (
    name TEXT PRIMARY KEY,
    feed TEXT NOT NULL,
    serial BIGINT NOT NULL,
    at DOUBLE PRECISION NOT NULL
);
