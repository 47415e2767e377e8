-- The target has triggers, rules, foreign keys, row security and unique constraints that the source has not.
--- schema
CREATE TABLE parents (id int PRIMARY KEY, v text);
CREATE TABLE children (id int PRIMARY KEY, parent int, pos int UNIQUE);
--- target
CREATE TABLE parents (id int PRIMARY KEY, v text);
CREATE TABLE children (id int PRIMARY KEY, parent int REFERENCES parents ON DELETE CASCADE, pos int UNIQUE DEFERRABLE INITIALLY DEFERRED);
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''must not fire''; END';
CREATE TRIGGER no BEFORE INSERT OR UPDATE OR DELETE ON parents FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE RULE nothing AS ON UPDATE TO children DO INSTEAD NOTHING;
ALTER TABLE children ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
--- rows
INSERT INTO parents SELECT i, 'p' FROM generate_series(1, 5) i;
INSERT INTO children SELECT i, i, i FROM generate_series(1, 5) i;
--- change: updated
UPDATE parents SET v = 'q';
UPDATE children SET pos = -pos;
--- change: what the target's key would have cascaded
UPDATE children SET parent = 2 WHERE parent = 1;
DELETE FROM parents WHERE id = 1;
--- change: an order that the target's key would not have allowed
INSERT INTO children VALUES (50, 50, 50);
INSERT INTO parents VALUES (50, 'late');
