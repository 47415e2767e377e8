-- Plain on the source, partitioned on the target, with and without a key; the target's rows move between partitions.
--- schema
CREATE TABLE orders (id int, region text, v text, big text, PRIMARY KEY (id, region));
ALTER TABLE orders ALTER big SET STORAGE EXTERNAL;
CREATE TABLE bag (a int, b text);
ALTER TABLE bag REPLICA IDENTITY FULL;
CREATE TABLE inherited (id int PRIMARY KEY, v text);
--- target
CREATE TABLE orders (id int, region text, v text, big text, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
CREATE TABLE orders_eu PARTITION OF orders FOR VALUES IN ('eu') PARTITION BY HASH (id);
CREATE TABLE orders_eu_0 PARTITION OF orders_eu FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE orders_eu_1 (big text, v text, region text NOT NULL, id int NOT NULL);
ALTER TABLE orders_eu ATTACH PARTITION orders_eu_1 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE orders_rest PARTITION OF orders DEFAULT;
CREATE TABLE bag (b text, a int) PARTITION BY LIST (a);
CREATE TABLE bag_0 PARTITION OF bag FOR VALUES IN (0, NULL);
CREATE TABLE bag_1 PARTITION OF bag FOR VALUES IN (1);
CREATE TABLE bag_rest PARTITION OF bag DEFAULT;
CREATE TABLE mother (id int);
CREATE TABLE inherited (v text, PRIMARY KEY (id)) INHERITS (mother);
--- rows
INSERT INTO orders SELECT i, CASE WHEN i % 2 = 0 THEN 'eu' ELSE 'us' END, 'v', repeat(md5(i::text), 200) FROM generate_series(1, 30) i;
INSERT INTO bag SELECT i % 3, 'b' FROM generate_series(1, 12) i;
INSERT INTO bag VALUES (NULL, NULL), (NULL, NULL);
INSERT INTO inherited SELECT i, 'v' FROM generate_series(1, 5) i;
--- change: in place
UPDATE orders SET v = 'w' WHERE id < 10;
UPDATE bag SET b = 'one of many' WHERE ctid = (SELECT min(ctid) FROM bag WHERE a = 1);
--- change: to another partition, the long value unchanged
UPDATE orders SET region = 'xx' WHERE id > 25;
UPDATE orders SET region = 'eu', id = id + 100 WHERE region = 'us' AND id < 6;
UPDATE bag SET a = 1 WHERE ctid = (SELECT min(ctid) FROM bag WHERE a = 0);
UPDATE bag SET a = 5 WHERE ctid = (SELECT min(ctid) FROM bag WHERE a IS NULL);
--- change: deleted
DELETE FROM orders WHERE id % 5 = 0;
DELETE FROM bag WHERE ctid IN (SELECT min(ctid) FROM bag GROUP BY a);
--- change: truncated
TRUNCATE orders, bag;
INSERT INTO orders VALUES (1, 'eu', 'after', ''), (2, 'us', 'after', NULL);
INSERT INTO bag VALUES (0, 'after'), (1, 'after'), (1, 'after');
UPDATE inherited SET v = 'w', id = -id;
