-- Checks (one not validated, one that calls a function), NOT NULL, defaults that are drawn or computed.
--- schema
CREATE FUNCTION is_small(int) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT $1 < 1000';
CREATE TABLE t (id int PRIMARY KEY, n int CHECK (is_small(n)), at timestamptz NOT NULL DEFAULT clock_timestamp(), u uuid DEFAULT gen_random_uuid(), r float8 DEFAULT random(), who text DEFAULT current_user);
INSERT INTO t (id, n) VALUES (1, -5);
ALTER TABLE t ADD CONSTRAINT not_negative CHECK (n >= 0) NOT VALID;
--- rows
INSERT INTO t (id, n) SELECT i, i FROM generate_series(2, 20) i;
--- change: inserted with defaults
INSERT INTO t (id, n) SELECT i, i FROM generate_series(100, 120) i;
INSERT INTO t VALUES (200, 1, DEFAULT, NULL, NULL, NULL);
--- change: defaults drawn again
UPDATE t SET at = DEFAULT, u = DEFAULT, r = DEFAULT WHERE id < 10 AND n > 0;
--- change: a row that the check would not take is repaired
UPDATE t SET n = 5 WHERE id = 1;
