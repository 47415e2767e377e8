-- The identity itself is a long value kept out of line: as primary key, and by index.
--- schema
CREATE FUNCTION long(i int) RETURNS text LANGUAGE sql AS $$ SELECT string_agg(md5((i * 1000 + j)::text), '') FROM generate_series(1, 70) j $$;
CREATE TABLE by_key (k text PRIMARY KEY, n int, big text);
ALTER TABLE by_key ALTER k SET STORAGE EXTERNAL, ALTER big SET STORAGE EXTERNAL;
CREATE TABLE by_index (id int, k text NOT NULL, n int, big text);
ALTER TABLE by_index ALTER k SET STORAGE EXTERNAL, ALTER big SET STORAGE EXTERNAL;
CREATE UNIQUE INDEX by_index_k ON by_index (k);
ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_k;
--- rows
INSERT INTO by_key SELECT long(i), i, long(i) FROM generate_series(1, 8) i;
INSERT INTO by_index SELECT i, long(i), i, long(i) FROM generate_series(1, 8) i;
--- change: beside it
UPDATE by_key SET n = n + 1;
UPDATE by_index SET n = n + 1, id = -id;
--- change: the long identity
UPDATE by_key SET k = k || 'x' WHERE n < 4;
UPDATE by_index SET k = 'short now' WHERE n = 3;
--- change: the other long value
UPDATE by_key SET big = 'short' WHERE n > 7;
UPDATE by_index SET big = long(77) WHERE n > 7;
--- change: deleted and inserted
DELETE FROM by_key WHERE n = 5;
INSERT INTO by_key VALUES (long(4), 55, 'again') ON CONFLICT (k) DO UPDATE SET n = 56;
DELETE FROM by_index WHERE n = 5;
