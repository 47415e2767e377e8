-- A unique index on an expression, and one on a function of our own.
--- schema
CREATE FUNCTION initials(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT pg_catalog.left($1, 2)';
CREATE TABLE users (id int PRIMARY KEY, email text, nick text);
CREATE UNIQUE INDEX ON users (lower(email));
CREATE UNIQUE INDEX ON users (initials(nick), (id % 2));
--- rows
INSERT INTO users SELECT i, 'User' || i || '@x', chr(65 + i) || 'a' FROM generate_series(1, 20) i;
--- change: only the case differs
UPDATE users SET email = upper(email) WHERE id < 5;
--- change: swapped by way of NULL
UPDATE users SET email = NULL WHERE id = 6;
UPDATE users SET email = 'USER6@X' WHERE id = 7;
UPDATE users SET email = 'user7@x' WHERE id = 6;
--- change: freed and taken in another case
DELETE FROM users WHERE id = 8;
INSERT INTO users VALUES (108, 'uSeR8@x', 'zz');
--- change: freed by an update
UPDATE users SET email = 'gone' || id WHERE id = 9;
INSERT INTO users VALUES (109, 'USER9@X', 'yy');
