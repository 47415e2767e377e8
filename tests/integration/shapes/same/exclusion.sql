-- Exclusion constraints, one of them deferrable: periods that are freed, moved and swapped.
--- schema
CREATE TABLE bookings (id int PRIMARY KEY, room int, during int4range, EXCLUDE USING gist (room WITH =, during WITH &&));
CREATE TABLE shifts (id int PRIMARY KEY, during int4range, EXCLUDE USING gist (during WITH &&) DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE partial_shifts (id int PRIMARY KEY, during int4range, dropped bool, EXCLUDE USING gist (during WITH &&) WHERE (NOT dropped));
--- rows
INSERT INTO bookings SELECT i, i % 2, int4range(i * 10, i * 10 + 20) FROM generate_series(1, 10) i;
INSERT INTO shifts SELECT i, int4range(i * 10, i * 10 + 10) FROM generate_series(1, 10) i;
INSERT INTO partial_shifts SELECT i, int4range(i * 10, i * 10 + 10), false FROM generate_series(1, 10) i;
--- change: freed by a delete, taken by an insert
DELETE FROM bookings WHERE id = 1;
INSERT INTO bookings VALUES (101, 1, '[12,28)');
--- change: freed by an update, taken by an update
UPDATE bookings SET room = 7 WHERE id = 2;
UPDATE bookings SET during = '[15,60)' WHERE id = 4;
--- change: swapped until the commit
UPDATE shifts SET during = '[20,30)' WHERE id = 1;
UPDATE shifts SET during = '[10,20)' WHERE id = 2;
--- change: all moved by one statement
UPDATE shifts SET during = int4range(lower(during) + 10, upper(during) + 10);
--- change: what a condition frees
UPDATE partial_shifts SET dropped = true WHERE id < 4;
INSERT INTO partial_shifts VALUES (20, '[10,40)', false);
