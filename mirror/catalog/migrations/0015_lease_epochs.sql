-- A lease has an epoch, which rises whenever it goes to another holder and is never given out twice: what is done under
-- a lease checks in its own transaction that the epoch is still there.
ALTER TABLE leases ADD COLUMN epoch BIGINT NOT NULL DEFAULT 0;
INSERT INTO counters (name, value) VALUES ('lease epoch', 0);

-- Leases are judged by the database's own clock, in seconds since the epoch. SQLite has none but that of this machine:
-- its engine defines a function of this name that returns the given moment.
-- postgresql: CREATE FUNCTION current_seconds(given DOUBLE PRECISION) RETURNS DOUBLE PRECISION LANGUAGE sql VOLATILE
-- postgresql: AS 'SELECT CAST(extract(epoch FROM clock_timestamp()) AS DOUBLE PRECISION)';
