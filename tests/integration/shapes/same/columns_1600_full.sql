-- As many columns as a table can have, without a key: a change binds 3,200 values and compares 1,600.
--- schema
CREATE TABLE wide (c0 int);
DO $$ BEGIN EXECUTE (SELECT 'ALTER TABLE wide ' || string_agg('ADD COLUMN c' || i || CASE WHEN i % 4 = 0 THEN ' text' WHEN i % 4 = 1 THEN ' int' WHEN i % 4 = 2 THEN ' float4' ELSE ' bool' END, ', ') FROM generate_series(1, 1599) i); END $$;
ALTER TABLE wide REPLICA IDENTITY FULL;
--- rows
INSERT INTO wide (c0, c1, c2, c1599) SELECT i % 2, i % 2, 'NaN', true FROM generate_series(1, 6) i;
INSERT INTO wide DEFAULT VALUES;
INSERT INTO wide DEFAULT VALUES;
--- change: one of equal rows
UPDATE wide SET c1597 = 1 WHERE ctid = (SELECT min(ctid) FROM wide WHERE c0 = 1);
--- change: all columns of one row of NULLs
DO $$ BEGIN EXECUTE (SELECT 'UPDATE wide SET ' || string_agg(format('c%s = %s', i, CASE WHEN i % 4 = 0 THEN '''y''' WHEN i % 4 = 3 THEN 'true' ELSE '7' END), ', ') || ' WHERE ctid = (SELECT min(ctid) FROM wide WHERE c0 IS NULL)' FROM generate_series(1, 1599) i); END $$;
--- change: deleted
DELETE FROM wide WHERE ctid = (SELECT max(ctid) FROM wide WHERE c0 = 0);
DELETE FROM wide WHERE c1599 AND c1595;
