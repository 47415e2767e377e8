-- REPLICA IDENTITY USING INDEX: another column than the primary key, several columns, with INCLUDE.
--- schema
CREATE TABLE by_code (id int PRIMARY KEY, code text NOT NULL, v text);
CREATE UNIQUE INDEX by_code_key ON by_code (code);
ALTER TABLE by_code REPLICA IDENTITY USING INDEX by_code_key;
CREATE TABLE keyless_by_two (v text, b int NOT NULL, a text NOT NULL);
CREATE UNIQUE INDEX keyless_by_two_key ON keyless_by_two (a, b) INCLUDE (v);
ALTER TABLE keyless_by_two REPLICA IDENTITY USING INDEX keyless_by_two_key;
--- rows
INSERT INTO by_code SELECT i, 'code' || i, 'v' FROM generate_series(1, 20) i;
INSERT INTO keyless_by_two SELECT 'v', i % 4, 'a' || i / 4 FROM generate_series(1, 20) i;
--- change: beside the identity
UPDATE by_code SET v = 'w' WHERE id < 5;
UPDATE keyless_by_two SET v = NULL WHERE b = 1;
--- change: the primary key, which is not the identity
UPDATE by_code SET id = id + 100 WHERE id > 10;
--- change: the identity
UPDATE by_code SET code = code || '!' WHERE id < 8;
UPDATE keyless_by_two SET b = b + 10 WHERE a = 'a2';
--- change: identity and primary key of two rows swapped
UPDATE by_code SET id = -1, code = 'free' WHERE id = 1;
UPDATE by_code SET id = 1, code = 'code1!' WHERE id = 2;
UPDATE by_code SET id = 2, code = 'code2!' WHERE id = -1;
--- change: a code freed and taken again
DELETE FROM by_code WHERE code = 'code9';
INSERT INTO by_code VALUES (999, 'code9', 'successor');
DELETE FROM keyless_by_two WHERE b = 2;
INSERT INTO keyless_by_two VALUES ('successor', 2, 'a1');
