-- The counters again, by the hour since the epoch: what was saved over time.
CREATE TABLE hours (
    hour BIGINT NOT NULL,
    name TEXT NOT NULL,
    value BIGINT NOT NULL,
    PRIMARY KEY (hour, name)
);
