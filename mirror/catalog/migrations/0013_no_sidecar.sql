-- Files of which no sidecar can be made, by the digest that the index lists ('' where it lists none): pages do not
-- promise one.
CREATE TABLE no_sidecar (
    source TEXT NOT NULL,
    project TEXT NOT NULL,
    filename TEXT NOT NULL,
    digest TEXT NOT NULL,
    since DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (source, project, filename)
);
