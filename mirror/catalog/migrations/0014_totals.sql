-- What is held, counted by the transactions that change it (catalog/totals.py), so that nobody has to count it.
CREATE TABLE totals (
    only_row INTEGER PRIMARY KEY,
    files BIGINT NOT NULL,
    bytes BIGINT NOT NULL
);
INSERT INTO totals (only_row, files, bytes)
    SELECT 1, count(*), coalesce(sum(size), 0) FROM (SELECT DISTINCT digest, size FROM files) AS blobs;

-- Projects' pages that upstream has, by source.
CREATE TABLE page_totals (
    source TEXT PRIMARY KEY,
    projects BIGINT NOT NULL
);
INSERT INTO page_totals (source, projects)
    SELECT source, count(*) FROM pages WHERE kind = 'project' AND found = 1 GROUP BY source;

-- How many pages are fresh, and how many are missing, without a look at the pages.
CREATE INDEX pages_by_age ON pages (source, found, checked) WHERE kind = 'project';

-- The order in which files are evicted.
DROP INDEX files_by_use;
CREATE INDEX files_by_use ON files (used, digest);

-- Whether a blob is that of an upload.
CREATE INDEX uploads_by_digest ON uploads (digest);
CREATE INDEX uploads_by_sidecar ON uploads (sidecar);
