-- The target has its columns in another order, more of them (with defaults, generated, identity), and wider types.
--- schema
CREATE TABLE items (id int, name varchar(10), amount int, small smallint, n numeric(8,2), note text, PRIMARY KEY (id));
CREATE TABLE bag (a int, b varchar(5), c int);
ALTER TABLE bag REPLICA IDENTITY FULL;
--- target
CREATE TABLE items (seen timestamptz NOT NULL DEFAULT now(), note text, n numeric, small int, amount bigint, name text, kind text DEFAULT 'migrated',
    serial int GENERATED ALWAYS AS IDENTITY, twice bigint GENERATED ALWAYS AS (amount * 2) STORED, id bigint PRIMARY KEY);
CREATE TABLE bag (c bigint, own int DEFAULT 7, b text, a numeric);
--- rows
INSERT INTO items SELECT i, 'n' || i, i, i, i, 'x' FROM generate_series(1, 20) i;
INSERT INTO bag SELECT i % 3, 'b', NULL FROM generate_series(1, 9) i;
--- change: each column
UPDATE items SET name = 'ten chars!', amount = -1, small = 32767, n = 123456.78, note = NULL WHERE id < 5;
UPDATE bag SET b = 'five!', c = 2147483647 WHERE ctid = (SELECT min(ctid) FROM bag WHERE a = 1);
--- change: the key
UPDATE items SET id = id + 100 WHERE id > 15;
UPDATE bag SET a = -a WHERE a = 2;
--- change: inserted and deleted
INSERT INTO items (id) VALUES (500);
DELETE FROM items WHERE id = 7;
DELETE FROM bag WHERE ctid IN (SELECT max(ctid) FROM bag GROUP BY a);
INSERT INTO bag VALUES (NULL, NULL, NULL);
--- change: truncated
TRUNCATE bag;
INSERT INTO bag VALUES (1, 'x', 1), (1, 'x', 1);
