-- REPLICA IDENTITY FULL beside a primary key: found by the key, whatever types the other columns have.
--- schema
CREATE TABLE notes (id int PRIMARY KEY, j json, p point, f float8, t text);
ALTER TABLE notes ALTER t SET STORAGE EXTERNAL;
ALTER TABLE notes REPLICA IDENTITY FULL;
--- rows
INSERT INTO notes SELECT i, '{"a":  1}', point(i, -0.0), 'NaN', repeat(md5(i::text), 200) FROM generate_series(1, 10) i;
--- change: beside the key
UPDATE notes SET f = id WHERE id % 2 = 0;
--- change: the key
UPDATE notes SET id = -id WHERE id < 4;
--- change: keys swapped by way of a third
UPDATE notes SET id = 100 WHERE id = 5;
UPDATE notes SET id = 5 WHERE id = 6;
UPDATE notes SET id = 6 WHERE id = 100;
--- change: deleted and inserted again
DELETE FROM notes WHERE id = 7;
INSERT INTO notes VALUES (7, '[]', NULL, '-0', 'again');
