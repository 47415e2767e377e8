-- INHERITS: several levels, several parents, rows in all of them, ONLY.
--- schema
CREATE TABLE mother (id int PRIMARY KEY, v text);
CREATE TABLE father (id int, w text);
CREATE TABLE child (extra int, PRIMARY KEY (id)) INHERITS (mother, father);
CREATE TABLE grandchild (note text DEFAULT 'n') INHERITS (child);
ALTER TABLE father REPLICA IDENTITY FULL;
ALTER TABLE grandchild REPLICA IDENTITY FULL;
--- rows
INSERT INTO mother SELECT i, 'm' FROM generate_series(1, 5) i;
INSERT INTO father SELECT i, 'f' FROM generate_series(1, 5) i;
INSERT INTO child (id, v, w, extra) SELECT i, 'c', 'c', i FROM generate_series(1, 5) i;
INSERT INTO grandchild (id, v, w, extra) SELECT 1 + i % 2, 'g', 'g', 1 FROM generate_series(1, 6) i;
--- change: the whole family by its eldest
UPDATE mother SET v = v || '!' WHERE id < 3;
--- change: only one of them
UPDATE ONLY mother SET v = 'only' WHERE id = 1;
DELETE FROM ONLY child WHERE id = 1;
--- change: the same key in all of them
UPDATE father SET id = id + 100 WHERE id = 2;
DELETE FROM mother WHERE id = 3;
--- change: equal rows of the youngest
DELETE FROM grandchild WHERE ctid = (SELECT min(ctid) FROM grandchild WHERE id = 1);
--- change: only the eldest truncated
TRUNCATE ONLY mother;
INSERT INTO mother VALUES (1, 'again');
--- change: the whole family truncated
TRUNCATE mother;
INSERT INTO child (id, v) VALUES (50, 'again');
