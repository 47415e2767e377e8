-- REPLICA IDENTITY changes while changes are streamed: by key, FULL, by index, FULL without key, by key again.
--- schema
CREATE TABLE t (id int PRIMARY KEY, code text NOT NULL, big text, v int);
ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
CREATE UNIQUE INDEX t_code ON t (code);
CREATE TABLE keyless (id int NOT NULL, v text);
CREATE UNIQUE INDEX keyless_id ON keyless (id);
ALTER TABLE keyless REPLICA IDENTITY FULL;
--- rows
INSERT INTO t SELECT i, 'c' || i, repeat(md5(i::text), 200), 0 FROM generate_series(1, 10) i;
INSERT INTO keyless SELECT i, 'v' FROM generate_series(1, 10) i;
--- change: by key
UPDATE t SET v = 1, id = id + 10;
--- change: then FULL
ALTER TABLE t REPLICA IDENTITY FULL;
UPDATE t SET v = 2, id = id - 10;
ALTER TABLE keyless REPLICA IDENTITY USING INDEX keyless_id;
UPDATE keyless SET v = 'by index', id = id + 100 WHERE id < 5;
--- change: then by index
ALTER TABLE t REPLICA IDENTITY USING INDEX t_code;
UPDATE t SET v = 3, code = code || '!' WHERE id < 5;
DELETE FROM t WHERE code = 'c9';
ALTER TABLE keyless REPLICA IDENTITY FULL;
UPDATE keyless SET v = 'in full', id = id + 100 WHERE id < 8;
--- change: several times inside one transaction
UPDATE t SET v = 4 WHERE id = 1;
ALTER TABLE t REPLICA IDENTITY DEFAULT;
UPDATE t SET id = 500 WHERE id = 1;
ALTER TABLE t REPLICA IDENTITY FULL;
UPDATE t SET v = 5, big = 'short' WHERE id = 500;
ALTER TABLE t REPLICA IDENTITY USING INDEX t_code;
UPDATE t SET code = 'last' WHERE id = 500;
--- change: by key again
ALTER TABLE t REPLICA IDENTITY DEFAULT;
UPDATE t SET v = 6, id = id + 1000 WHERE id > 5;
DELETE FROM t WHERE id = 2;
