-- Foreign keys from partitioned tables and to them; TRUNCATE names leaves only, and a key belongs to the parent (trap 12).
--- schema
CREATE TABLE accounts (id int PRIMARY KEY, v text);
CREATE TABLE bookings (id int, account int REFERENCES accounts ON DELETE CASCADE, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE bookings_1 PARTITION OF bookings FOR VALUES FROM (0) TO (100);
CREATE TABLE bookings_2 PARTITION OF bookings FOR VALUES FROM (100) TO (200);
CREATE TABLE lines (id int PRIMARY KEY, booking int REFERENCES bookings ON UPDATE CASCADE ON DELETE CASCADE);
--- rows
INSERT INTO accounts SELECT i, 'a' FROM generate_series(1, 10) i;
INSERT INTO bookings SELECT i * 20, i FROM generate_series(0, 9) i WHERE i > 0;
INSERT INTO lines SELECT i, i * 20 FROM generate_series(1, 9) i;
--- change: a referenced row moves to another partition
UPDATE bookings SET id = 199 WHERE id = 20;
--- change: a cascade through partitions
DELETE FROM accounts WHERE id = 3;
--- change: a leaf and what refers to it
TRUNCATE lines, bookings;
INSERT INTO bookings VALUES (5, 1), (150, 2);
INSERT INTO lines VALUES (1, 5), (2, 150);
--- change: everything, by cascade from the referenced table
INSERT INTO accounts VALUES (99, 'before');
TRUNCATE accounts CASCADE;
INSERT INTO accounts VALUES (1, 'after');
INSERT INTO bookings VALUES (6, 1);
