-- Primary keys that change: moved, swapped, freed and taken again (traps 9, 10).
--- schema
CREATE TABLE t (id int PRIMARY KEY, v text);
--- rows
INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 40) i;
--- change: far away
UPDATE t SET id = id + 1000 WHERE id > 30;
--- change: swapped by way of a third
UPDATE t SET id = -1 WHERE id = 1;
UPDATE t SET id = 1 WHERE id = 2;
UPDATE t SET id = 2 WHERE id = -1;
--- change: rotated by three, values kept
UPDATE t SET id = 0 WHERE id = 3;
UPDATE t SET id = 3 WHERE id = 4;
UPDATE t SET id = 4 WHERE id = 5;
UPDATE t SET id = 5 WHERE id = 0;
--- change: there and back again
UPDATE t SET id = 500 WHERE id = 6;
UPDATE t SET v = 'seen at 500' WHERE id = 500;
UPDATE t SET id = 6 WHERE id = 500;
--- change: a key freed by an update is inserted in the same transaction
UPDATE t SET id = 700 WHERE id = 7;
INSERT INTO t VALUES (7, 'successor by update');
--- change: a key freed by a delete is inserted in the same transaction
DELETE FROM t WHERE id = 8;
INSERT INTO t VALUES (8, 'successor by delete');
--- change: a key freed by a delete is taken by an update
DELETE FROM t WHERE id = 9;
UPDATE t SET id = 9 WHERE id = 10;
--- change: inserted, moved, deleted and inserted again at one place
INSERT INTO t VALUES (10, 'a');
UPDATE t SET id = 11000 WHERE id = 10;
INSERT INTO t VALUES (10, 'b');
DELETE FROM t WHERE id = 11000;
DELETE FROM t WHERE id = 10;
INSERT INTO t VALUES (10, 'c');
--- change: one row a hundred times
DO $$ BEGIN FOR i IN 1..100 LOOP UPDATE t SET v = 'hot ' || i, id = CASE WHEN id = 20 THEN 2020 ELSE 20 END WHERE id IN (20, 2020); END LOOP; END $$;
--- change: written as it was
UPDATE t SET id = id, v = v WHERE id < 20;
