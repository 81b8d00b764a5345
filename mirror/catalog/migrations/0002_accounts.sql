-- Who may do what. Passwords and tokens are only here as hashes. The counter rises with every change,
-- so that a server notices what another process has changed.

INSERT INTO counters (name, value) VALUES ('accounts', 0);

CREATE TABLE users (
    name TEXT PRIMARY KEY,
    password TEXT NOT NULL,
    member_of TEXT NOT NULL,
    grants TEXT NOT NULL,
    created DOUBLE PRECISION NOT NULL
);

CREATE TABLE tokens (
    name TEXT PRIMARY KEY,
    sha256 TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    grants TEXT NOT NULL,
    created DOUBLE PRECISION NOT NULL,
    expires DOUBLE PRECISION,
    used DOUBLE PRECISION
);
CREATE INDEX tokens_by_owner ON tokens (owner);
