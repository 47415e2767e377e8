-- The leaves have the source's names, their parents are others.
--- schema
CREATE TABLE logs (id int, at int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE logs_1 PARTITION OF logs FOR VALUES FROM (0) TO (10);
CREATE TABLE logs_2 PARTITION OF logs FOR VALUES FROM (10) TO (20);
--- target
CREATE TABLE logs (at int, id int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE logs_low PARTITION OF logs FOR VALUES FROM (MINVALUE) TO (10) PARTITION BY LIST (at);
CREATE TABLE logs_1 PARTITION OF logs_low DEFAULT;
CREATE TABLE logs_2 PARTITION OF logs FOR VALUES FROM (10) TO (MAXVALUE);
--- rows
INSERT INTO logs SELECT i, i % 20 FROM generate_series(1, 40) i;
--- change: moved
UPDATE logs SET at = 19 - at WHERE id < 15;
--- change: one truncated
TRUNCATE logs_1;
INSERT INTO logs VALUES (1, 1);
