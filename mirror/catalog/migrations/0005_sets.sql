-- What was fetched on purpose, ahead of demand: never to be evicted while a set names it.
CREATE TABLE sets (
    name TEXT NOT NULL,
    source TEXT NOT NULL,
    project TEXT NOT NULL,
    filename TEXT NOT NULL,
    PRIMARY KEY (name, source, project, filename)
);
CREATE INDEX sets_by_file ON sets (source, project, filename);
