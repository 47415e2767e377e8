-- Unique columns beside the key: swapped, rotated, freed and taken (trap 9).
--- schema
CREATE TABLE seats (id int PRIMARY KEY, seat int UNIQUE, name text UNIQUE, UNIQUE (seat, name));
--- rows
INSERT INTO seats SELECT i, i, 'n' || i FROM generate_series(1, 20) i;
--- change: two seats swapped by way of NULL
UPDATE seats SET seat = NULL WHERE id = 1;
UPDATE seats SET seat = 1 WHERE id = 2;
UPDATE seats SET seat = 2 WHERE id = 1;
--- change: three seats rotated by way of a fourth
UPDATE seats SET seat = -1 WHERE id = 3;
UPDATE seats SET seat = 3 WHERE id = 4;
UPDATE seats SET seat = 4 WHERE id = 5;
UPDATE seats SET seat = 5 WHERE id = 3;
--- change: freed by a delete, taken by an insert
DELETE FROM seats WHERE id = 6;
INSERT INTO seats VALUES (106, 6, 'n6');
--- change: freed by an update, taken by an insert
UPDATE seats SET seat = 1007, name = 'moved' WHERE id = 7;
INSERT INTO seats VALUES (107, 7, 'n7');
--- change: freed by a delete, taken by an update
DELETE FROM seats WHERE id = 8;
UPDATE seats SET seat = 8, name = 'n8' WHERE id = 9;
--- change: freed in one transaction
UPDATE seats SET seat = NULL, name = NULL WHERE id = 10;
--- change: and taken in the next
INSERT INTO seats VALUES (110, 10, 'n10');
--- change: a chain of moves by one statement
UPDATE seats SET seat = seat + 1000 WHERE seat BETWEEN 11 AND 20;
UPDATE seats SET seat = seat - 999 WHERE seat BETWEEN 1011 AND 1020;
