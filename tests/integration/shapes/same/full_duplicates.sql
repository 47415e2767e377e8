-- No key at all, REPLICA IDENTITY FULL: equal rows, rows of NULLs only (trap 11).
--- schema
CREATE TABLE bag (a int, b text, c numeric);
ALTER TABLE bag REPLICA IDENTITY FULL;
CREATE TABLE one_column (a int);
ALTER TABLE one_column REPLICA IDENTITY FULL;
--- rows
INSERT INTO bag SELECT i % 3, CASE WHEN i % 2 = 0 THEN 'dup' END, i % 2 FROM generate_series(1, 30) i;
INSERT INTO bag SELECT NULL FROM generate_series(1, 6);
INSERT INTO one_column SELECT NULL FROM generate_series(1, 5);
INSERT INTO one_column SELECT i % 2 FROM generate_series(1, 5) i;
--- change: one of several equal rows is updated
UPDATE bag SET b = 'one' WHERE ctid = (SELECT max(ctid) FROM bag WHERE a = 1 AND b IS NULL);
UPDATE one_column SET a = 9 WHERE ctid = (SELECT min(ctid) FROM one_column WHERE a IS NULL);
--- change: one of several equal rows is deleted
DELETE FROM bag WHERE ctid = (SELECT min(ctid) FROM bag WHERE a = 2 AND b = 'dup');
DELETE FROM one_column WHERE ctid = (SELECT min(ctid) FROM one_column WHERE a = 1);
--- change: rows of NULLs are inserted, updated and deleted
INSERT INTO bag VALUES (NULL, NULL, NULL), (NULL, NULL, NULL);
UPDATE bag SET a = 7 WHERE ctid IN (SELECT ctid FROM bag WHERE a IS NULL LIMIT 2);
DELETE FROM bag WHERE ctid IN (SELECT ctid FROM bag WHERE a IS NULL LIMIT 3);
--- change: a row becomes equal to others and one of them goes
UPDATE bag SET a = 7, b = NULL, c = NULL WHERE ctid = (SELECT max(ctid) FROM bag WHERE a = 0);
DELETE FROM bag WHERE ctid = (SELECT min(ctid) FROM bag WHERE a = 7 AND b IS NULL);
--- change: values that are equal and print otherwise
INSERT INTO bag VALUES (5, 'n', 1.0), (5, 'n', 1.00), (5, 'n', 1.000);
UPDATE bag SET b = 'two places' WHERE a = 5 AND scale(c) = 2;
DELETE FROM bag WHERE a = 5 AND scale(c) = 3;
--- change: every row at once
UPDATE bag SET c = coalesce(c, 0) + 1;
UPDATE one_column SET a = NULL;
--- change: emptied by DELETE and filled again
DELETE FROM bag;
INSERT INTO bag SELECT 1, 'same', 1 FROM generate_series(1, 4);
