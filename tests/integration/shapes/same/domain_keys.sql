-- Keys of domains, of domains over domains, of enums, of citext, and of text without case (trap 31).
--- schema
CREATE DOMAIN code AS varchar(8) CHECK (VALUE <> '');
CREATE DOMAIN strict_code AS code CHECK (length(VALUE) > 1);
CREATE DOMAIN caseless AS citext;
CREATE DOMAIN numbers AS int[] CHECK (array_position(VALUE, NULL) IS NULL);
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TABLE by_domain (k strict_code PRIMARY KEY, v text);
CREATE TABLE by_array (k numbers, m mood, v text, PRIMARY KEY (k, m));
CREATE TABLE by_citext (k citext PRIMARY KEY, c caseless UNIQUE, v text);
CREATE TABLE full_domains (k strict_code, c caseless, n numbers);
ALTER TABLE full_domains REPLICA IDENTITY FULL;
--- rows
INSERT INTO by_domain SELECT 'k' || i, 'v' FROM generate_series(1, 9) i;
INSERT INTO by_array SELECT ARRAY[i, i], 'ok', 'v' FROM generate_series(1, 9) i;
INSERT INTO by_citext SELECT 'Key' || i, 'Case' || i, 'v' FROM generate_series(1, 9) i;
INSERT INTO full_domains SELECT 'k' || i % 2, CASE WHEN i % 3 = 0 THEN 'X' ELSE 'x' END, ARRAY[i % 2] FROM generate_series(1, 12) i;
--- change: beside the key
UPDATE by_domain SET v = 'w' WHERE k < 'k5';
UPDATE by_array SET v = 'w';
UPDATE by_citext SET v = 'w' WHERE k = 'KEY3';
--- change: only the case of the key
UPDATE by_citext SET k = upper(k), c = lower(c) WHERE k < 'key5';
--- change: the key
UPDATE by_domain SET k = 'longer' || right(k, 1);
UPDATE by_array SET m = 'happy', k = k || 1 WHERE k[1] > 5;
--- change: of equal rows that differ by case
UPDATE full_domains SET n = '{7}' WHERE ctid = (SELECT min(ctid) FROM full_domains WHERE c::text = 'X');
DELETE FROM full_domains WHERE c::text = 'x' AND k = 'k1';
--- change: deleted in another case
DELETE FROM by_citext WHERE k = 'kEy8';
INSERT INTO by_citext VALUES ('KEY8', 'CASE8', 'again');
