-- A partial unique index: which row it holds changes (one active row for each owner).
--- schema
CREATE TABLE cards (id int PRIMARY KEY, owner int, active bool NOT NULL, v text);
CREATE UNIQUE INDEX ON cards (owner) WHERE active;
CREATE UNIQUE INDEX ON cards (v) WHERE owner > 100 AND v IS NOT NULL;
--- rows
INSERT INTO cards SELECT i, i % 5, i <= 5, 'v' FROM generate_series(1, 20) i;
--- change: another card becomes the active one
UPDATE cards SET active = false WHERE id = 1;
UPDATE cards SET active = true WHERE id = 6;
--- change: the active card is deleted and another inserted
DELETE FROM cards WHERE id = 2;
INSERT INTO cards VALUES (102, 2, true, 'new');
--- change: owners swapped
UPDATE cards SET active = false WHERE id = 3;
UPDATE cards SET owner = 3 WHERE id = 4;
UPDATE cards SET owner = 4, active = true WHERE id = 3;
--- change: none is active, then all first ones
UPDATE cards SET active = false;
UPDATE cards SET active = true WHERE id IN (SELECT min(id) FROM cards GROUP BY owner);
