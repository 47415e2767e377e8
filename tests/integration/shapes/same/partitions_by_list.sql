-- Partitioned by list of text, with NULL; partitions of other column order, and with dropped columns.
--- schema
CREATE TABLE sales (id int, region text, v text) PARTITION BY LIST (region);
CREATE TABLE sales_eu PARTITION OF sales FOR VALUES IN ('de', 'fr');
CREATE TABLE sales_us (gone int, v text, region text, other int, id int);
ALTER TABLE sales_us DROP COLUMN gone, DROP COLUMN other;
ALTER TABLE sales ATTACH PARTITION sales_us FOR VALUES IN ('us', NULL);
CREATE TABLE sales_none PARTITION OF sales DEFAULT;
ALTER TABLE sales_eu REPLICA IDENTITY FULL;
ALTER TABLE sales_us REPLICA IDENTITY FULL;
ALTER TABLE sales_none REPLICA IDENTITY FULL;
--- rows
INSERT INTO sales SELECT i % 4, (ARRAY['de', 'fr', 'us', NULL, 'xx'])[1 + i % 5], 'v' FROM generate_series(1, 40) i;
--- change: one of equal rows in place
UPDATE sales SET v = 'w' WHERE (tableoid, ctid) = (SELECT tableoid, ctid FROM sales WHERE region = 'us' AND id = 2 LIMIT 1);
--- change: equal rows move to another partition
UPDATE sales SET region = 'us' WHERE region = 'de' AND id = 1;
UPDATE sales SET region = NULL WHERE region = 'xx' AND id = 0;
--- change: out of the partition of other columns
UPDATE sales SET region = 'fr', v = NULL WHERE region IS NULL AND id = 2;
--- change: equal rows of two partitions
DELETE FROM sales WHERE (tableoid, ctid) IN (SELECT tableoid, min(ctid) FROM sales WHERE id = 3 GROUP BY tableoid);
--- change: truncated by parent
TRUNCATE ONLY sales_us;
INSERT INTO sales VALUES (1, NULL, 'after'), (1, NULL, 'after');
