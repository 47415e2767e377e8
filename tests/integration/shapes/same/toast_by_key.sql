-- Long values that do not change, beside a primary key that does and does not (trap 10).
--- schema
CREATE TABLE big (id int PRIMARY KEY, n int, a text, b jsonb, c bytea, d text[]);
ALTER TABLE big ALTER a SET STORAGE EXTERNAL, ALTER c SET STORAGE EXTERNAL, ALTER d SET STORAGE EXTERNAL;
CREATE FUNCTION long(i int) RETURNS text LANGUAGE sql AS $$ SELECT string_agg(md5((i * 1000 + j)::text), '') FROM generate_series(1, 100) j $$;
--- rows
INSERT INTO big SELECT i, i, long(i), jsonb_build_object('k', long(-i)), long(i)::bytea, ARRAY[long(i), NULL] FROM generate_series(1, 20) i;
--- change: beside them
UPDATE big SET n = n + 1;
--- change: the key, beside them
UPDATE big SET id = id + 100 WHERE id < 6;
--- change: one of them, the others stay
UPDATE big SET a = 'short' WHERE id = 7;
UPDATE big SET b = NULL WHERE id = 8;
UPDATE big SET c = long(99)::bytea, id = 900 WHERE id = 9;
UPDATE big SET d = d || ARRAY['more'] WHERE id = 10;
--- change: written and then left alone, in one transaction
INSERT INTO big VALUES (50, 0, long(50), '{}', '', '{}');
UPDATE big SET n = 1 WHERE id = 50;
UPDATE big SET id = 51 WHERE id = 50;
UPDATE big SET n = 2 WHERE id = 51;
--- change: changed twice, the key between
UPDATE big SET a = long(70) WHERE id = 11;
UPDATE big SET id = 111 WHERE id = 11;
UPDATE big SET a = a || 'tail' WHERE id = 111;
UPDATE big SET n = -1 WHERE id = 111;
--- change: keys of two long rows swapped
UPDATE big SET id = -1 WHERE id = 12;
UPDATE big SET id = 12 WHERE id = 13;
UPDATE big SET id = 13 WHERE id = -1;
--- change: deleted and inserted with another's value
DELETE FROM big WHERE id = 14;
INSERT INTO big SELECT 14, n, a, b, c, d FROM big WHERE id = 15;
