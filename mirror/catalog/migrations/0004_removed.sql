-- Files that we hold and upstream lists no more, and who has fetched them since. `facts` is a model.File in MessagePack:
-- the page that listed it is gone.
CREATE TABLE removed (
    source TEXT NOT NULL,
    project TEXT NOT NULL,
    filename TEXT NOT NULL,
    since DOUBLE PRECISION NOT NULL,
    why TEXT NOT NULL,
    facts BYTEA NOT NULL,
    PRIMARY KEY (source, project, filename)
);
CREATE TABLE removed_fetches (
    source TEXT NOT NULL,
    project TEXT NOT NULL,
    filename TEXT NOT NULL,
    client TEXT NOT NULL,
    who TEXT NOT NULL,
    fetches BIGINT NOT NULL,
    last DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (source, project, filename, client, who)
);
