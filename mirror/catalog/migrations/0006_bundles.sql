-- What carries content between nodes that never meet.

-- Who this node is: an identity that lives and dies with its journal.
CREATE TABLE node (
    only_row INTEGER PRIMARY KEY,
    id TEXT NOT NULL
);

-- Up to where other nodes' content has been taken in: `whole` is the serial up to which nothing of theirs is lacking,
-- `newest` the highest that any of their bundles had.
CREATE TABLE imports (
    origin TEXT PRIMARY KEY,
    whole BIGINT NOT NULL,
    newest BIGINT NOT NULL
);

-- What a bundle brings, out of sight until all of it is here. `place` numbers the events, from 1.
CREATE TABLE staged_pages (
    bundle TEXT NOT NULL,
    place BIGINT NOT NULL,
    event TEXT NOT NULL,
    source TEXT NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    checked DOUBLE PRECISION NOT NULL,
    found INTEGER NOT NULL,
    revision TEXT NOT NULL,
    url TEXT NOT NULL,
    content_type TEXT NOT NULL,
    etag TEXT,
    last_modified TEXT,
    serial BIGINT,
    body BYTEA NOT NULL,
    PRIMARY KEY (bundle, place)
);
CREATE TABLE staged_files (
    bundle TEXT NOT NULL,
    place BIGINT NOT NULL,
    event TEXT NOT NULL,
    source TEXT NOT NULL,
    project TEXT NOT NULL,
    filename TEXT NOT NULL,
    digest TEXT NOT NULL,
    size BIGINT NOT NULL,
    PRIMARY KEY (bundle, place)
);

-- Uploads whose records have not been written beside the files yet.
CREATE TABLE unrecorded (
    repository TEXT NOT NULL,
    filename TEXT NOT NULL,
    PRIMARY KEY (repository, filename)
);
