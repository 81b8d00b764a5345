-- How far the process has come that follows another mirror for all, as JSON, for the other processes to show.
CREATE TABLE follow_states (
    name TEXT PRIMARY KEY,
    state TEXT NOT NULL
);
