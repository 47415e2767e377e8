-- UNIQUE NULLS NOT DISTINCT: of NULL there is one.
-- from: 15
--- schema
CREATE TABLE single (id int PRIMARY KEY, a int, b int, UNIQUE NULLS NOT DISTINCT (a, b));
--- rows
INSERT INTO single VALUES (1, NULL, NULL), (2, 1, NULL), (3, NULL, 1);
--- change: the NULL freed and taken
DELETE FROM single WHERE id = 1;
INSERT INTO single VALUES (4, NULL, NULL);
--- change: the NULL moved on
UPDATE single SET a = 9 WHERE id = 4;
UPDATE single SET a = NULL, b = NULL WHERE id = 2;
--- change: swapped by way of a value
UPDATE single SET a = 100 WHERE id = 2;
UPDATE single SET b = NULL WHERE id = 3;
UPDATE single SET a = NULL, b = 1 WHERE id = 2;
