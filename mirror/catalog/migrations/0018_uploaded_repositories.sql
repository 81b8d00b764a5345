-- The repositories that ever had an upload or a released name, and since when by the database's clock: their readers
-- ask whether another node has changed something, all others need not.
CREATE TABLE uploaded_repositories (
    repository TEXT PRIMARY KEY,
    since DOUBLE PRECISION NOT NULL
);
INSERT INTO uploaded_repositories (repository, since)
SELECT repository, 0 FROM uploads UNION SELECT repository, 0 FROM releases;
