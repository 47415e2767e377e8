-- As many columns as a table can have, with a key.
--- schema
CREATE TABLE wide (id int PRIMARY KEY);
DO $$ BEGIN EXECUTE (SELECT 'ALTER TABLE wide ' || string_agg('ADD COLUMN c' || i || CASE WHEN i % 3 = 0 THEN ' text' WHEN i % 3 = 1 THEN ' int' ELSE ' bool' END, ', ') FROM generate_series(1, 1599) i); END $$;
--- rows
INSERT INTO wide (id, c1, c3, c1599) SELECT i, i, 'x', 'last' FROM generate_series(1, 5) i;
--- change: one column, and all of them
UPDATE wide SET c1597 = 1 WHERE id = 1;
DO $$ BEGIN EXECUTE (SELECT 'UPDATE wide SET ' || string_agg(format('c%s = %s', i, CASE WHEN i % 3 = 0 THEN '''y''' WHEN i % 3 = 1 THEN '7' ELSE 'true' END), ', ') || ' WHERE id = 2' FROM generate_series(1, 1599) i); END $$;
--- change: the key
UPDATE wide SET id = -id WHERE id > 3;
--- change: inserted and deleted
INSERT INTO wide (id, c1000) VALUES (9, 1);
DELETE FROM wide WHERE id = 3;
