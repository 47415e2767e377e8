-- Stored generated columns: of the key, of other columns, and nothing but them beside the key (trap 22).
--- schema
CREATE TABLE prices (id int PRIMARY KEY, net numeric, gross numeric GENERATED ALWAYS AS (net * 1.2) STORED, label text GENERATED ALWAYS AS ('no. ' || (net)::text) STORED, v text);
CREATE UNIQUE INDEX ON prices (gross);
CREATE TABLE only_generated (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED, odd bool GENERATED ALWAYS AS (id % 2 = 1) STORED);
CREATE TABLE generated_first (g int GENERATED ALWAYS AS (a + 1) STORED, a int, k text PRIMARY KEY);
--- rows
INSERT INTO prices (id, net, v) SELECT i, i, 'v' FROM generate_series(1, 20) i;
INSERT INTO only_generated SELECT i FROM generate_series(1, 10) i;
INSERT INTO generated_first (a, k) SELECT i, 'k' || i FROM generate_series(1, 10) i;
--- change: what it is made of
UPDATE prices SET net = net + 100 WHERE id < 5;
UPDATE generated_first SET a = -a;
--- change: beside it
UPDATE prices SET v = NULL WHERE id > 15;
--- change: the key
UPDATE only_generated SET id = id + 50 WHERE id > 5;
UPDATE generated_first SET k = 'l' || k WHERE a < -5;
--- change: inserted and deleted
INSERT INTO only_generated VALUES (99);
DELETE FROM only_generated WHERE odd;
INSERT INTO prices (id, net) VALUES (99, NULL);
