-- Deferrable unique constraints: one statement swaps what a row at a time cannot; and until the commit.
--- schema
CREATE TABLE queue (id int PRIMARY KEY, pos int UNIQUE DEFERRABLE INITIALLY IMMEDIATE, late int UNIQUE DEFERRABLE INITIALLY DEFERRED);
--- rows
INSERT INTO queue SELECT i, i, i FROM generate_series(1, 20) i;
--- change: two swapped by one statement
UPDATE queue SET pos = 3 - pos WHERE pos IN (1, 2);
--- change: everything moves up by one
UPDATE queue SET pos = pos + 1;
--- change: the order turned round
UPDATE queue SET pos = 100 - pos, late = 21 - late;
--- change: three rotated statement by statement, checked at the commit
UPDATE queue SET late = 2 WHERE id = 20;
UPDATE queue SET late = 3 WHERE id = 19;
UPDATE queue SET late = 1 WHERE id = 18;
--- change: taken before it is free
INSERT INTO queue VALUES (30, 1000, 10);
DELETE FROM queue WHERE id <> 30 AND late = 10;
--- change: deferred by the session
SET CONSTRAINTS ALL DEFERRED;
UPDATE queue SET pos = 1 WHERE id = 1;
UPDATE queue SET pos = 1 WHERE id = 2;
UPDATE queue SET pos = 2 WHERE id = 2;
