-- GENERATED ALWAYS AS IDENTITY as key and beside one (trap 22).
--- schema
CREATE TABLE orders (id int GENERATED ALWAYS AS IDENTITY (START 100 INCREMENT 3) PRIMARY KEY, v text, u text UNIQUE);
CREATE TABLE beside (k text PRIMARY KEY, number bigint GENERATED ALWAYS AS IDENTITY, big text, gen int GENERATED ALWAYS AS (length(k)) STORED);
ALTER TABLE beside ALTER big SET STORAGE EXTERNAL;
CREATE TABLE in_full (v text, number int GENERATED ALWAYS AS IDENTITY);
ALTER TABLE in_full REPLICA IDENTITY FULL;
--- rows
INSERT INTO orders (v, u) SELECT 'v', i FROM generate_series(1, 10) i;
INSERT INTO beside (k, big) SELECT 'k' || i, repeat(md5(i::text), 200) FROM generate_series(1, 10) i;
INSERT INTO in_full (v) SELECT i % 2 FROM generate_series(1, 10) i;
--- change: beside the identity
UPDATE orders SET v = 'w' WHERE id > 110;
UPDATE beside SET big = 'short' WHERE k = 'k1';
UPDATE in_full SET v = 'one' WHERE number = 3;
--- change: the identity drawn again
UPDATE orders SET id = DEFAULT WHERE id = 100;
UPDATE beside SET number = DEFAULT WHERE k IN ('k2', 'k3');
UPDATE in_full SET number = DEFAULT WHERE number = 4;
--- change: inserted by DEFAULT and by OVERRIDING
INSERT INTO orders (v, u) VALUES ('default', 'd');
INSERT INTO orders (id, v, u) OVERRIDING SYSTEM VALUE VALUES (7, 'overriding', 'o');
INSERT INTO in_full (v, number) OVERRIDING SYSTEM VALUE VALUES ('o', 1);
--- change: a unique value swapped beside it
UPDATE orders SET u = NULL WHERE id = 103;
UPDATE orders SET u = '2' WHERE id = 106;
UPDATE orders SET u = '3' WHERE id = 103;
--- change: deleted
DELETE FROM orders WHERE id > 120;
DELETE FROM in_full WHERE number > 8;
DELETE FROM beside WHERE k = 'k9';
