-- Rows of an unlogged table are not in the WAL.
-- says: source.unlogged_tables
-- says: unlogged.t
-- says: SET LOGGED
--- schema
CREATE UNLOGGED TABLE t (id int PRIMARY KEY);
CREATE TABLE logged (id int PRIMARY KEY);
