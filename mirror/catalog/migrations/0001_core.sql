-- Types are spelled so that SQLite and PostgreSQL both take them. Times are seconds since the epoch.

CREATE TABLE counters (
    name TEXT PRIMARY KEY,
    value BIGINT NOT NULL
);
INSERT INTO counters (name, value) VALUES ('feed', 0);

-- What an upstream answered for a page. The body is the raw one, compressed with zstd: everything else is derived.
CREATE TABLE pages (
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
    PRIMARY KEY (source, kind, name)
);

-- Files and sidecars that are held, by the name under which a source lists them.
CREATE TABLE files (
    source TEXT NOT NULL,
    project TEXT NOT NULL,
    filename TEXT NOT NULL,
    digest TEXT NOT NULL,
    size BIGINT NOT NULL,
    stored DOUBLE PRECISION NOT NULL,
    used DOUBLE PRECISION NOT NULL,
    uses BIGINT NOT NULL,
    PRIMARY KEY (source, project, filename)
);
CREATE INDEX files_by_digest ON files (digest);
CREATE INDEX files_by_use ON files (used);

-- The journal of what changed here.
CREATE TABLE feed (
    serial BIGINT PRIMARY KEY,
    at DOUBLE PRECISION NOT NULL,
    source TEXT NOT NULL,
    project TEXT NOT NULL,
    kind TEXT NOT NULL,
    filename TEXT NOT NULL,
    detail TEXT NOT NULL
);

-- Byte streams that only grow: an upstream's versions file, and the one that we publish.
CREATE TABLE logs (
    name TEXT NOT NULL,
    seq BIGINT NOT NULL,
    body BYTEA NOT NULL,
    PRIMARY KEY (name, seq)
);

-- Files of our own. All of it can be made again from the files and the records beside them: `facts` and `sidecar` (the
-- digest of its sidecar) from the file, the rest from its record.
CREATE TABLE uploads (
    repository TEXT NOT NULL,
    project TEXT NOT NULL,
    filename TEXT NOT NULL,
    digest TEXT NOT NULL,
    size BIGINT NOT NULL,
    uploaded DOUBLE PRECISION NOT NULL,
    changed DOUBLE PRECISION NOT NULL,
    uploader TEXT NOT NULL,
    origin TEXT NOT NULL,
    yanked TEXT,
    deleted INTEGER NOT NULL,
    attestations TEXT NOT NULL,
    sidecar TEXT NOT NULL,
    facts TEXT NOT NULL,
    PRIMARY KEY (repository, filename)
);
CREATE INDEX uploads_by_project ON uploads (repository, project);

CREATE TABLE leases (
    name TEXT PRIMARY KEY,
    holder TEXT NOT NULL,
    until DOUBLE PRECISION NOT NULL
);
