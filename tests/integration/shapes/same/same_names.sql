-- Tables, columns, types and indexes of the same names in several schemas, with other contents.
--- schema
CREATE SCHEMA same_names_too;
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TYPE same_names_too.mood AS ENUM ('ok', 'happy');
CREATE TABLE t (id int PRIMARY KEY, m mood, v text);
CREATE TABLE same_names_too.t (v int, m same_names_too.mood, id int PRIMARY KEY);
CREATE TABLE public.same_name_t (id int PRIMARY KEY, v text);
CREATE TABLE same_name_t (id text PRIMARY KEY, v int);
--- rows
INSERT INTO t SELECT i, 'ok', 'here' FROM generate_series(1, 5) i;
INSERT INTO same_names_too.t SELECT i, 'ok', i FROM generate_series(1, 5) i;
INSERT INTO public.same_name_t VALUES (1, 'public');
INSERT INTO same_name_t VALUES ('1', 1);
--- change: both, in one transaction
UPDATE t SET m = 'sad', v = 'w' WHERE id = 2;
UPDATE same_names_too.t SET m = 'happy', v = -1 WHERE id = 2;
UPDATE public.same_name_t SET v = 'changed';
UPDATE same_name_t SET v = 9;
--- change: only the other
DELETE FROM same_names_too.t WHERE id = 3;
INSERT INTO same_name_t VALUES ('2', 2);
--- change: truncated only there
TRUNCATE same_names_too.t;
