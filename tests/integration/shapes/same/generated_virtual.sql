-- Virtual generated columns.
-- from: 18
--- schema
CREATE TABLE prices (id int PRIMARY KEY, net numeric, gross numeric GENERATED ALWAYS AS (net * 1.2) VIRTUAL, kept numeric GENERATED ALWAYS AS (net + 1) STORED);
--- rows
INSERT INTO prices (id, net) SELECT i, i FROM generate_series(1, 20) i;
--- change: what it is made of
UPDATE prices SET net = net + 100 WHERE id < 5;
--- change: inserted and deleted
INSERT INTO prices (id, net) VALUES (99, NULL);
DELETE FROM prices WHERE gross > 110;
