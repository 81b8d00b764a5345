-- A move of another catalog into this one (`mirror move`). `step` is 'source', with the identity of what is moved as its
-- detail, 'copied', with the name of a table that is whole, or in the end only 'ended': while there is a source, no
-- mirror is opened over the catalog.
CREATE TABLE move_steps (
    step TEXT NOT NULL,
    detail TEXT NOT NULL,
    PRIMARY KEY (step, detail)
);
