-- The target's primary key is not the source's identity: by index on the source, another key on the target, or none.
--- schema
CREATE TABLE by_code (id int PRIMARY KEY, code text NOT NULL UNIQUE, v text);
ALTER TABLE by_code REPLICA IDENTITY USING INDEX by_code_code_key;
CREATE TABLE by_id (id int PRIMARY KEY, code text, v text);
CREATE TABLE keyless (id int, code text, v text);
ALTER TABLE keyless REPLICA IDENTITY FULL;
CREATE TABLE late (id int PRIMARY KEY DEFERRABLE, v text);
ALTER TABLE late REPLICA IDENTITY FULL;
--- target
CREATE TABLE by_code (id int, code text PRIMARY KEY, v text);
CREATE TABLE by_id (id int NOT NULL, code text PRIMARY KEY, v text);
CREATE TABLE keyless (id int, code text, v text, own bigserial PRIMARY KEY);
CREATE TABLE late (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, v text);
--- rows
INSERT INTO by_code SELECT i, 'c' || i, 'v' FROM generate_series(1, 10) i;
INSERT INTO by_id SELECT i, 'c' || i, 'v' FROM generate_series(1, 10) i;
INSERT INTO keyless SELECT i % 2, 'c', 'v' FROM generate_series(1, 10) i;
INSERT INTO late SELECT i, 'v' || i FROM generate_series(1, 10) i;
--- change: beside the identity
UPDATE by_code SET v = 'w', id = -id WHERE id < 4;
UPDATE by_id SET v = 'w', code = 'd' || code WHERE id < 4;
UPDATE keyless SET v = 'w' WHERE ctid = (SELECT min(ctid) FROM keyless);
--- change: the identity
UPDATE by_code SET code = 'z' || code WHERE id > 6;
UPDATE by_id SET id = id + 100 WHERE id > 6;
UPDATE keyless SET id = 7 WHERE ctid = (SELECT max(ctid) FROM keyless);
UPDATE late SET id = id + 1;
--- change: deleted
DELETE FROM by_code WHERE code = 'c5';
DELETE FROM by_id WHERE id = 5;
DELETE FROM keyless WHERE id = 1;
DELETE FROM late WHERE id = 5;
