-- When a log last grew, in seconds since the epoch, by the same clock for all processes: two states are never of the same
-- second. `seq` is the newest chunk then; where the log has another one, an older version of the mirror has written it.
CREATE TABLE log_times (
    name TEXT PRIMARY KEY,
    seq BIGINT NOT NULL,
    at DOUBLE PRECISION NOT NULL
);

-- Who asks an upstream for its list, so that one process does for all: since when, and until when others leave it to it.
CREATE TABLE log_refreshes (
    name TEXT PRIMARY KEY,
    holder TEXT NOT NULL,
    at DOUBLE PRECISION NOT NULL,
    until DOUBLE PRECISION NOT NULL
);

-- Grows with each change of a log, which is no event of the journal: together they tell whether anything has changed.
INSERT INTO counters (name, value) VALUES ('logs', 0);
