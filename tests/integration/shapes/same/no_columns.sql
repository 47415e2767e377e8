-- Tables without columns, of columns that are gone, and of none but computed ones.
--- schema
CREATE TABLE nothing ();
ALTER TABLE nothing REPLICA IDENTITY FULL;
CREATE TABLE nothing_left (a int, b int);
INSERT INTO nothing_left VALUES (1, 2), (3, 4);
ALTER TABLE nothing_left DROP COLUMN a, DROP COLUMN b;
ALTER TABLE nothing_left REPLICA IDENTITY FULL;
--- rows
INSERT INTO nothing SELECT FROM generate_series(1, 5);
--- change: inserted
INSERT INTO nothing DEFAULT VALUES;
INSERT INTO nothing_left SELECT FROM generate_series(1, 3);
--- change: deleted
DELETE FROM nothing WHERE ctid IN (SELECT ctid FROM nothing LIMIT 2);
DELETE FROM nothing_left WHERE ctid IN (SELECT ctid FROM nothing_left LIMIT 1);
--- change: truncated
TRUNCATE nothing;
INSERT INTO nothing SELECT FROM generate_series(1, 2);
