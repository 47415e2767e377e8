-- Large objects are not in the stream of changes.
-- says: source.large_objects
-- says: preflight.waive
--- schema
CREATE TABLE t (id int PRIMARY KEY);
SELECT lo_from_bytea(0, 'x');
