-- Browsers that are signed in. `sha256` is the digest of the secret in the cookie; `token` that of the token that was
-- shown, or `owner` the user whose password was, with `proof` a digest of the stored password: another one ends it.
CREATE TABLE sessions (
    sha256 TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    token TEXT NOT NULL,
    proof TEXT NOT NULL,
    expires DOUBLE PRECISION NOT NULL
);
CREATE INDEX sessions_by_owner ON sessions (owner, token, expires);
