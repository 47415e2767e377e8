-- Keys under collations, one of which takes different texts for equal.
--- schema
-- Servers built without ICU have none that is loose.
DO $$ BEGIN
  CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
EXCEPTION WHEN feature_not_supported THEN CREATE COLLATION loose FROM "C";
END $$;
CREATE TABLE loosely (k text COLLATE loose PRIMARY KEY, u text COLLATE loose UNIQUE, v text);
CREATE TABLE bytewise (k text COLLATE "C" PRIMARY KEY, v text COLLATE "POSIX");
CREATE TABLE full_loosely (k text COLLATE loose, v text);
ALTER TABLE full_loosely REPLICA IDENTITY FULL;
--- rows
INSERT INTO loosely SELECT 'Key' || i, 'U' || i, 'v' FROM generate_series(1, 9) i;
INSERT INTO bytewise VALUES ('a', 'x'), ('A', 'y'), ('ä', 'z'), (E'a\u0308', 'w');
INSERT INTO full_loosely VALUES ('a', '1'), ('A', '1'), ('a', '1');
--- change: by another spelling of the key
UPDATE loosely SET v = 'w' WHERE k = 'KEY3';
UPDATE loosely SET k = upper(k) WHERE k = 'key4';
DELETE FROM loosely WHERE k = 'kEY5';
--- change: bytes that look the same
UPDATE bytewise SET v = 'composed' WHERE k = 'ä';
DELETE FROM bytewise WHERE k = 'A';
--- change: of rows equal to the collation only
UPDATE full_loosely SET v = '2' WHERE k COLLATE "C" = 'A';
DELETE FROM full_loosely WHERE ctid = (SELECT max(ctid) FROM full_loosely);
