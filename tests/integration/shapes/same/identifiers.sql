-- Names with quotes, line breaks, dots, all of 63 bytes, reserved words, other alphabets; names that differ by case only.
--- schema
CREATE TABLE "select" ("from" int PRIMARY KEY, "where" text, "table" text);
CREATE TABLE "SELECT" ("FROM" int PRIMARY KEY, "from" text, "From" text);
CREATE TABLE "quote "" in it" ("key "" quoted" int PRIMARY KEY, "'single'" text, "back\slash" text, "dollar $1 $$" text, "%s {} :x" text);
CREATE TABLE "line
break" ("co
lumn" int PRIMARY KEY, "tab	ulator" text, "carriageretur
n" text);
CREATE TABLE "dots.and, commas; -- and /* comments" ("a.b" int PRIMARY KEY, "a,b" text, "(a)" text, "a;b" text);
CREATE TABLE "sixty_three_bytes_of_a_name_that_is_as_long_as_PostgreSQL_takes" ("ÄÖÜäöüß€ßßßßßßßßßßßßßßßßßßßßßßß" int PRIMARY KEY, "日本語の列" text, "🦀" text);
CREATE TABLE "🐘" (" leading and trailing " int PRIMARY KEY, "." text);
CREATE TABLE "CTID" ("CTID" int PRIMARY KEY, "Xmin" text, "oid" text, "tableOID" text, "row" text, "r" text);
CREATE TABLE gone (gone int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "only" text, "new" text, "old" text, "default" text);
CREATE TABLE "null" ("null" int, "true" bool, "user" text);
ALTER TABLE "null" REPLICA IDENTITY FULL;
CREATE TABLE "ﬁ" (k int NOT NULL, "ﬁ" text, "fi" text);
CREATE UNIQUE INDEX "index "" quoted" ON "ﬁ" (k);
ALTER TABLE "ﬁ" REPLICA IDENTITY USING INDEX "index "" quoted";
CREATE SCHEMA "identifiers' of ""a""
schema.x";
CREATE TABLE "identifiers' of ""a""
schema.x"."select" ("from" int PRIMARY KEY, "where" text);
CREATE SCHEMA "IDENTIFIERS";
CREATE TABLE "IDENTIFIERS"."select" ("from" int PRIMARY KEY, "where" text);
CREATE VIEW ours AS SELECT c.oid, c.oid::regclass AS name, quote_ident(a.attname) AS first, a.attidentity <> '' AS drawn
  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = 1
 WHERE c.relkind = 'r' AND c.relnamespace::regnamespace::text ILIKE '%identifiers%';
--- rows
DO $$ DECLARE t record; BEGIN
  FOR t IN SELECT * FROM ours LOOP
    EXECUTE format('INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT i FROM generate_series(1, 5) i', t.name, t.first);
  END LOOP; END $$;
--- change: every column but the first
DO $$ DECLARE t record; BEGIN
  FOR t IN SELECT ours.name, string_agg(quote_ident(a.attname) || CASE WHEN a.atttypid = 'bool'::regtype THEN ' = true' ELSE $q$ = 'it''s "' || $q$ || a.attnum || $q$ || '"'$q$ END, ', ') AS sets
             FROM ours JOIN pg_attribute a ON a.attrelid = ours.oid AND a.attnum > 1 GROUP BY 1 LOOP
    EXECUTE format('UPDATE %s SET %s WHERE ctid = (SELECT min(ctid) FROM %1$s)', t.name, t.sets);
  END LOOP; END $$;
--- change: the first column
DO $$ DECLARE t record; BEGIN
  FOR t IN SELECT * FROM ours LOOP
    IF t.drawn THEN
      PERFORM setval(pg_get_serial_sequence('gone', 'gone'), 100);
      EXECUTE format('UPDATE %s SET %s = DEFAULT WHERE %2$s = 2', t.name, t.first);
    ELSE
      EXECUTE format('UPDATE %s SET %s = 200 WHERE %2$s = 2', t.name, t.first);
    END IF;
  END LOOP; END $$;
--- change: deleted and inserted
DO $$ DECLARE t record; BEGIN
  FOR t IN SELECT * FROM ours LOOP
    EXECUTE format('DELETE FROM %s WHERE ctid = (SELECT max(ctid) FROM %1$s)', t.name);
    EXECUTE format('INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE VALUES (77)', t.name, t.first);
  END LOOP; END $$;
--- change: truncated and filled
TRUNCATE "select", "SELECT", "quote "" in it", "IDENTIFIERS"."select";
INSERT INTO "select" VALUES (1, 'small');
INSERT INTO "SELECT" VALUES (1, 'LARGE', 'Mixed');
INSERT INTO "IDENTIFIERS"."select" VALUES (1, 'elsewhere');
