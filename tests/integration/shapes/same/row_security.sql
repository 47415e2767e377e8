-- Row security that lets nobody see anything, forced.
--- schema
CREATE TABLE guarded (id int PRIMARY KEY, v text);
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY nobody ON guarded USING (false) WITH CHECK (false);
CREATE TABLE guarded_full (a int);
ALTER TABLE guarded_full ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE guarded_full REPLICA IDENTITY FULL;
--- rows
INSERT INTO guarded SELECT i, 'v' FROM generate_series(1, 10) i;
INSERT INTO guarded_full SELECT i % 3 FROM generate_series(1, 10) i;
--- change: inserted
INSERT INTO guarded VALUES (11, 'x');
INSERT INTO guarded_full VALUES (NULL), (1);
--- change: updated
UPDATE guarded SET v = 'w', id = id + 100 WHERE id > 5;
UPDATE guarded_full SET a = 7 WHERE a = 2;
--- change: deleted
DELETE FROM guarded WHERE id < 3;
DELETE FROM guarded_full WHERE ctid = (SELECT min(ctid) FROM guarded_full);
--- change: truncated
TRUNCATE guarded_full;
INSERT INTO guarded_full VALUES (1);
