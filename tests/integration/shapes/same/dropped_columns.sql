-- Columns dropped before the start, at both ends and in the middle; a column added with a default.
--- schema
CREATE TABLE t (first int, id int, gone text, v text, last int);
INSERT INTO t VALUES (1, 1, 'x', 'y', 2), (1, 2, 'x', 'y', 2);
ALTER TABLE t DROP COLUMN first, DROP COLUMN gone, DROP COLUMN last;
ALTER TABLE t ADD PRIMARY KEY (id), ADD COLUMN added int NOT NULL DEFAULT 42;
CREATE TABLE f (first int, id int, gone text, v text);
ALTER TABLE f DROP COLUMN first, DROP COLUMN gone;
ALTER TABLE f REPLICA IDENTITY FULL;
ALTER TABLE t ADD COLUMN back text;
--- rows
INSERT INTO t (id, v) SELECT i, 'v' FROM generate_series(3, 8) i;
INSERT INTO f SELECT i % 2, 'v' FROM generate_series(1, 8) i;
--- change: updated
UPDATE t SET v = 'w', back = 'b' WHERE id < 4;
UPDATE f SET v = 'w' WHERE ctid = (SELECT max(ctid) FROM f);
--- change: the key
UPDATE t SET id = id + 100;
--- change: deleted and inserted
DELETE FROM t WHERE id = 101;
INSERT INTO t (id) VALUES (1);
DELETE FROM f WHERE ctid = (SELECT min(ctid) FROM f);
