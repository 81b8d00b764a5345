-- What a node is fetching at the moment: the others read it from there, so that upstream is asked once for all of them.
-- The token is another one for each time that it is taken.
CREATE TABLE flights (
    name TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    token BIGINT NOT NULL,
    since DOUBLE PRECISION NOT NULL
);

-- The nodes that serve, by the address at which the others reach them, each with a fingerprint of its secret.
CREATE TABLE nodes (
    address TEXT PRIMARY KEY,
    instance TEXT NOT NULL,
    secret TEXT NOT NULL,
    seen DOUBLE PRECISION NOT NULL
);
