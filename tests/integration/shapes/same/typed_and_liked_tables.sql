-- A table of a composite type, one made LIKE another, one made by a query.
--- schema
CREATE TYPE thing AS (id int, name text);
CREATE TABLE typed OF thing (PRIMARY KEY (id), name WITH OPTIONS DEFAULT 'n');
CREATE TABLE liked (LIKE typed INCLUDING ALL, extra int);
CREATE TABLE by_query AS SELECT 1 AS a, 'x'::text AS b;
ALTER TABLE by_query REPLICA IDENTITY FULL;
CREATE TABLE emptied (id int PRIMARY KEY);
--- rows
INSERT INTO typed SELECT i FROM generate_series(1, 5) i;
INSERT INTO liked (id, extra) SELECT i, i FROM generate_series(1, 5) i;
--- change: each
UPDATE typed SET name = 'm' WHERE id > 2;
UPDATE liked SET extra = NULL, id = -id;
UPDATE by_query SET a = a + 1;
INSERT INTO emptied VALUES (1);
--- change: hidden by a temporary table of the same name
CREATE TEMP TABLE typed (id int PRIMARY KEY, name text) ON COMMIT DROP;
INSERT INTO pg_temp.typed VALUES (77, 'temporary');
INSERT INTO typed_and_liked_tables.typed VALUES (78, 'permanent');
--- change: emptied
DELETE FROM emptied;
DELETE FROM typed WHERE id = 1;
