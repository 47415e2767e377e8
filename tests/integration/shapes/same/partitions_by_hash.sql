-- Partitioned by hash of a number and of a text; the key moves between partitions.
--- schema
CREATE TABLE hashed (id int, name text, v text, PRIMARY KEY (id, name)) PARTITION BY HASH (id, name);
CREATE TABLE hashed_0 PARTITION OF hashed FOR VALUES WITH (MODULUS 3, REMAINDER 0);
CREATE TABLE hashed_1 PARTITION OF hashed FOR VALUES WITH (MODULUS 3, REMAINDER 1);
CREATE TABLE hashed_2 PARTITION OF hashed FOR VALUES WITH (MODULUS 3, REMAINDER 2);
--- rows
INSERT INTO hashed SELECT i, 'n' || i, 'v' FROM generate_series(1, 50) i;
--- change: in place
UPDATE hashed SET v = 'w' WHERE id % 2 = 0;
--- change: the key, and with it the partition
UPDATE hashed SET id = id + 100, name = upper(name) WHERE id < 20;
--- change: deleted and inserted
DELETE FROM hashed WHERE id % 5 = 0;
INSERT INTO hashed SELECT i, 'n' || i, 'again' FROM generate_series(25, 30) i ON CONFLICT DO NOTHING;
