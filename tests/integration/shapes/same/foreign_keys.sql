-- Foreign keys in a circle, to itself, with every action: the source's changes come, the target's keys do not act again.
--- schema
CREATE TABLE teams (id int PRIMARY KEY, lead int, name text);
CREATE TABLE people (id int PRIMARY KEY, team int REFERENCES teams ON DELETE CASCADE ON UPDATE CASCADE, boss int REFERENCES people ON DELETE SET NULL ON UPDATE CASCADE, v text);
ALTER TABLE teams ADD FOREIGN KEY (lead) REFERENCES people DEFERRABLE INITIALLY DEFERRED;
CREATE TABLE badges (id int PRIMARY KEY, person int DEFAULT 1 REFERENCES people ON DELETE SET DEFAULT ON UPDATE SET NULL, v text);
CREATE TABLE pairs (a int, b int, PRIMARY KEY (a, b));
CREATE TABLE pair_uses (id int PRIMARY KEY, a int, b int, FOREIGN KEY (a, b) REFERENCES pairs MATCH FULL ON UPDATE CASCADE ON DELETE CASCADE);
--- rows
INSERT INTO teams SELECT i, i * 10, 't' FROM generate_series(1, 5) i;
INSERT INTO people VALUES (1, 1, NULL, 'chief');
INSERT INTO people SELECT i, 1 + i % 5, i - 1, 'p' FROM generate_series(2, 60) i;
INSERT INTO badges SELECT i, i, 'b' FROM generate_series(1, 40) i;
INSERT INTO pairs SELECT i, i FROM generate_series(1, 10) i;
INSERT INTO pair_uses SELECT i, 1 + i % 10, 1 + i % 10 FROM generate_series(1, 20) i;
--- change: delete that sets NULL and default
DELETE FROM people WHERE id = 33;
--- change: update that cascades
UPDATE people SET id = 2002 WHERE id = 22;
UPDATE teams SET id = 500 WHERE id = 5;
UPDATE pairs SET a = a + 100, b = b + 200 WHERE a = 4;
--- change: delete that cascades
UPDATE people SET boss = NULL WHERE team = 500 AND boss IS NOT NULL;
DELETE FROM pairs WHERE a < 4;
--- change: a circle is closed inside one transaction
INSERT INTO teams VALUES (7, 777, 'new');
INSERT INTO people VALUES (777, 7, 777, 'own boss');
--- change: and taken apart
UPDATE teams SET lead = NULL WHERE id = 7;
DELETE FROM teams WHERE id = 7;
--- change: truncated together, filled again
TRUNCATE pairs CASCADE;
INSERT INTO pairs VALUES (1, 1);
INSERT INTO pair_uses VALUES (1, 1, 1);
