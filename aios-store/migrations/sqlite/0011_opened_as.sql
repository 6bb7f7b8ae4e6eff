-- The path by which the database was opened last. SQLite names the write-ahead log after it, so another
-- hard link to the file does not find the log that a crash left behind.
CREATE TABLE opened_as (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    path BLOB NOT NULL
) STRICT;
