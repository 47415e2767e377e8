-- A table, a column, and a column that the source cannot fill.
-- says: tables_missing_on_the_target.missing
-- says: ADD COLUMN "v" text
-- says: Column own of the target is NOT NULL without default
--- schema
CREATE TABLE missing (id int PRIMARY KEY);
CREATE TABLE short (id int PRIMARY KEY, v text);
CREATE TABLE demanding (id int PRIMARY KEY);
--- target
CREATE TABLE short (id int PRIMARY KEY);
CREATE TABLE demanding (id int PRIMARY KEY, own int NOT NULL);
