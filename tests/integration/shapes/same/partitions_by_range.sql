-- Partitioned by range, with a default partition; rows move between partitions (traps 12, 31).
--- schema
CREATE TABLE readings (at date, sensor int, v text, PRIMARY KEY (at, sensor)) PARTITION BY RANGE (at);
CREATE TABLE readings_2023 PARTITION OF readings FOR VALUES FROM ('2023-01-01') TO ('2024-01-01');
CREATE TABLE readings_2024 PARTITION OF readings FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE readings_rest PARTITION OF readings DEFAULT;
--- rows
INSERT INTO readings SELECT '2022-06-01'::date + i * 30, i, 'v' FROM generate_series(1, 40) i;
--- change: in place
UPDATE readings SET v = 'w' WHERE sensor % 3 = 0;
--- change: from one partition to another
UPDATE readings SET at = at + 365 WHERE at BETWEEN '2023-02-01' AND '2023-08-01';
--- change: to the default partition and out of it
UPDATE readings SET at = '1999-01-01' WHERE sensor = 9;
UPDATE readings SET at = '2024-05-05' WHERE sensor = 1;
--- change: by the partition's own name
INSERT INTO readings_2023 VALUES ('2023-12-31', 1000, 'direct');
UPDATE readings_rest SET v = 'direct' WHERE sensor = 2;
DELETE FROM readings_2024 WHERE sensor = 30;
--- change: one partition truncated
TRUNCATE readings_2023;
INSERT INTO readings VALUES ('2023-06-06', 2000, 'after');
--- change: the whole truncated between rows
INSERT INTO readings VALUES ('2023-07-07', 1, 'before');
TRUNCATE readings;
INSERT INTO readings VALUES ('2023-07-07', 1, 'after'), ('2030-01-01', 2, 'after');
