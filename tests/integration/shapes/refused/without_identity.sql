-- No key, a deferrable one, and none on purpose.
-- says: without_identity.no_key
-- says: without_identity.late
-- says: without_identity.on_purpose
-- says: REPLICA IDENTITY FULL
-- says: REPLICA IDENTITY USING INDEX "usable"
--- schema
CREATE TABLE no_key (a int);
CREATE TABLE late (a int PRIMARY KEY DEFERRABLE, b int NOT NULL);
CREATE UNIQUE INDEX usable ON late (b);
CREATE TABLE on_purpose (a int PRIMARY KEY);
ALTER TABLE on_purpose REPLICA IDENTITY NOTHING;
