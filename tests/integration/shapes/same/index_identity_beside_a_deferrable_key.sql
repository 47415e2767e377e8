-- A deferrable primary key whose values are swapped, beside the index that is the identity.
--- schema
CREATE TABLE places (place int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, code text NOT NULL, v text);
CREATE UNIQUE INDEX places_code ON places (code);
ALTER TABLE places REPLICA IDENTITY USING INDEX places_code;
--- rows
INSERT INTO places SELECT i, 'c' || i, 'v' FROM generate_series(1, 10) i;
--- change: primary keys swapped by one statement
UPDATE places SET place = 3 - place WHERE place IN (1, 2);
--- change: primary keys rotated statement by statement
UPDATE places SET place = 5 WHERE code = 'c4';
UPDATE places SET place = 6 WHERE code = 'c5';
UPDATE places SET place = 4 WHERE code = 'c6';
--- change: a place taken before it is free
INSERT INTO places VALUES (8, 'new', 'v');
DELETE FROM places WHERE code = 'c8';
--- change: identity and place at once
UPDATE places SET code = code || '+', place = 21 - place;
