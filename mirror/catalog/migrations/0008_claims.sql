-- Which source a name belongs to. None of it is forgotten with a page: only `mirror release` gives a name up.

-- What a source has ever had. `owner` is the index's URL without a login; `at` is when it last had something new.
CREATE TABLE claims (
    owner TEXT NOT NULL,
    project TEXT NOT NULL,
    at DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (owner, project)
);
INSERT INTO claims (owner, project, at)
    SELECT source, name, checked FROM pages WHERE kind = 'project' AND (found = 1 OR revision <> '');
INSERT INTO claims (owner, project, at)
    SELECT source, project, max(since) FROM removed WHERE true GROUP BY source, project
    ON CONFLICT (owner, project) DO NOTHING;

-- Names whose earlier owners no longer count in a repository, unless they have something new after that moment.
CREATE TABLE releases (
    repository TEXT NOT NULL,
    project TEXT NOT NULL,
    at DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (repository, project)
);

-- What a repository has shown of a source that is not its first: it goes on while the earlier ones are silent. '*' is
-- every repository: pages from before there was this table, and from bundles.
CREATE TABLE shown (
    repository TEXT NOT NULL,
    project TEXT NOT NULL,
    source TEXT NOT NULL,
    PRIMARY KEY (repository, project, source)
);
INSERT INTO shown (repository, project, source)
    SELECT '*', name, source FROM pages WHERE kind = 'project' AND found = 1;

-- Pages that upstream never had are forgotten by age: anyone can ask for names that do not exist.
CREATE INDEX pages_missing ON pages (source, checked) WHERE found = 0 AND revision = '';
