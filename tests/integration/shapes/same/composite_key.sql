-- Keys of several columns, in another order than the table's.
--- schema
CREATE TABLE lines (v text, line int, part "char", doc text, PRIMARY KEY (doc, part, line));
--- rows
INSERT INTO lines SELECT 'v', i % 5, 'ab'::text::"char", 'd' || i / 5 FROM generate_series(1, 25) i;
--- change: beside the key
UPDATE lines SET v = 'w' WHERE line = 2;
--- change: one column of the key
UPDATE lines SET line = line + 10 WHERE doc = 'd1';
--- change: all columns of the key
UPDATE lines SET line = -1, part = 'z', doc = 'moved' WHERE doc = 'd2' AND line = 3;
--- change: two keys swapped by way of a third
UPDATE lines SET part = 'q' WHERE doc = 'd3' AND line = 1;
UPDATE lines SET line = 1 WHERE doc = 'd3' AND line = 2;
UPDATE lines SET line = 2, part = 'a' WHERE doc = 'd3' AND part = 'q';
--- change: deleted and inserted
DELETE FROM lines WHERE line = 4;
INSERT INTO lines SELECT 'again', 4, 'a', 'd' || i FROM generate_series(1, 3) i;
