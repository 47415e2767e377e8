-- Triggers of every kind: what they did on the source arrives once, and the target's do not act.
--- schema
CREATE TABLE audited (id int PRIMARY KEY, v text, touched int DEFAULT 0);
CREATE TABLE audit (n int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text);
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql SET search_path = triggers AS $$ BEGIN
  IF NEW.v = 'skip me' THEN RETURN NULL; END IF; NEW.touched := NEW.touched + 1; RETURN NEW; END $$;
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql SET search_path = triggers AS $$ BEGIN
  INSERT INTO audit (what) VALUES (TG_OP || ' ' || TG_LEVEL || ' ' || TG_WHEN); RETURN NULL; END $$;
CREATE FUNCTION through_the_view() RETURNS trigger LANGUAGE plpgsql SET search_path = triggers AS $$ BEGIN
  INSERT INTO audited (id, v) VALUES (NEW.id, 'by the view'); INSERT INTO audit (what) VALUES ('view'); RETURN NEW; END $$;
CREATE TRIGGER b BEFORE INSERT OR UPDATE ON audited FOR EACH ROW EXECUTE FUNCTION touch();
CREATE TRIGGER r AFTER INSERT OR UPDATE OR DELETE ON audited FOR EACH ROW EXECUTE FUNCTION note();
CREATE TRIGGER s AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON audited FOR EACH STATEMENT EXECUTE FUNCTION note();
CREATE TRIGGER sb BEFORE UPDATE OF v ON audited FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION note();
CREATE TRIGGER t AFTER UPDATE ON audited REFERENCING OLD TABLE AS o NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION note();
CREATE CONSTRAINT TRIGGER late AFTER DELETE ON audited DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note();
CREATE TRIGGER off AFTER INSERT ON audited FOR EACH ROW EXECUTE FUNCTION note();
ALTER TABLE audited DISABLE TRIGGER off;
CREATE VIEW audited_view AS SELECT id, v FROM audited;
CREATE TRIGGER i INSTEAD OF INSERT ON audited_view FOR EACH ROW EXECUTE FUNCTION through_the_view();
--- rows
INSERT INTO audited (id, v) SELECT i, 'v' FROM generate_series(1, 10) i;
--- change: inserted, one row passed over by a trigger
INSERT INTO audited (id, v) VALUES (11, 'new'), (12, 'skip me');
--- change: updated
UPDATE audited SET v = 'w' WHERE id < 4;
UPDATE audited SET v = 'skip me' WHERE id = 5;
--- change: deleted, a trigger fires at the commit
DELETE FROM audited WHERE id IN (7, 8);
--- change: by way of the view
INSERT INTO audited_view VALUES (20, 'x');
UPDATE audited_view SET v = 'simple views are updatable' WHERE id = 20;
--- change: truncated
TRUNCATE audited;
INSERT INTO audited (id, v) VALUES (1, 'after');
