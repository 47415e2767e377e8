-- A deferrable primary key is no replica identity; with FULL, keys are equal for a while inside a transaction.
--- schema
CREATE TABLE ranks (id int PRIMARY KEY DEFERRABLE INITIALLY IMMEDIATE, v text);
ALTER TABLE ranks REPLICA IDENTITY FULL;
CREATE TABLE late_ranks (a int, b int, v text, PRIMARY KEY (a, b) DEFERRABLE INITIALLY DEFERRED);
ALTER TABLE late_ranks REPLICA IDENTITY FULL;
--- rows
INSERT INTO ranks SELECT i, 'v' || i FROM generate_series(1, 10) i;
INSERT INTO late_ranks SELECT i, i, 'v' || i FROM generate_series(1, 10) i;
--- change: two keys swapped by one statement
UPDATE ranks SET id = 3 - id WHERE id IN (1, 2);
--- change: all keys moved by one
UPDATE ranks SET id = id + 1;
--- change: three keys rotated statement by statement
UPDATE late_ranks SET a = 2, b = 2 WHERE v = 'v1';
UPDATE late_ranks SET a = 3, b = 3 WHERE v = 'v2';
UPDATE late_ranks SET a = 1, b = 1 WHERE v = 'v3';
--- change: a key taken twice until the other row is deleted
INSERT INTO late_ranks VALUES (5, 5, 'successor');
UPDATE late_ranks SET v = v || ' still here' WHERE a = 5;
DELETE FROM late_ranks WHERE v LIKE 'v5%';
--- change: rows deleted
DELETE FROM ranks WHERE id > 8;
DELETE FROM late_ranks WHERE a = 6;
