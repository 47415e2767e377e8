-- Three levels, each by another strategy and key; leaves with identities of their own.
--- schema
CREATE TABLE tree (id int NOT NULL, region text NOT NULL, at date NOT NULL, v text) PARTITION BY LIST (region);
CREATE TABLE tree_eu PARTITION OF tree FOR VALUES IN ('eu') PARTITION BY RANGE (at);
CREATE TABLE tree_eu_old PARTITION OF tree_eu FOR VALUES FROM (MINVALUE) TO ('2024-01-01') PARTITION BY HASH (id);
CREATE TABLE tree_eu_old_0 PARTITION OF tree_eu_old FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE tree_eu_old_1 PARTITION OF tree_eu_old FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE tree_eu_new PARTITION OF tree_eu DEFAULT;
CREATE TABLE tree_rest PARTITION OF tree DEFAULT;
ALTER TABLE tree_eu_old_0 ADD PRIMARY KEY (id);
ALTER TABLE tree_eu_old_1 REPLICA IDENTITY FULL;
CREATE UNIQUE INDEX tree_eu_new_key ON tree_eu_new (at, id);
ALTER TABLE tree_eu_new REPLICA IDENTITY USING INDEX tree_eu_new_key;
ALTER TABLE tree_rest REPLICA IDENTITY FULL;
--- rows
INSERT INTO tree SELECT i, CASE WHEN i % 3 = 0 THEN 'us' ELSE 'eu' END, '2023-06-01'::date + i * 10, 'v' FROM generate_series(1, 60) i;
--- change: in place, everywhere
UPDATE tree SET v = 'w' WHERE id % 4 = 0;
--- change: across all levels
UPDATE tree SET region = 'us' WHERE region = 'eu' AND id < 10;
UPDATE tree SET region = 'eu', at = '2030-01-01' WHERE region = 'us' AND id > 50;
--- change: within a level
UPDATE tree SET at = at - 300 WHERE region = 'eu' AND at > '2024-06-01';
UPDATE tree SET id = id + 1000 WHERE region = 'eu' AND at < '2023-10-01';
--- change: deleted by the middle
DELETE FROM tree_eu WHERE id % 7 = 0;
--- change: a branch truncated
TRUNCATE tree_eu_old;
INSERT INTO tree VALUES (1, 'eu', '2020-01-01', 'after'), (2, 'eu', '2020-01-01', 'after');
