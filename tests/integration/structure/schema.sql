-- One of every kind that is compared, as a source of version 14 knows it, with names that need their quotes.
CREATE ROLE reader; CREATE ROLE clerk; CREATE ROLE "Odd, role";
CREATE SCHEMA shop; CREATE SCHEMA "Odd ""schema""; --";
COMMENT ON SCHEMA shop IS 'it''s the shop';
GRANT USAGE ON SCHEMA shop TO reader, clerk; GRANT CREATE ON SCHEMA shop TO clerk WITH GRANT OPTION;
CREATE EXTENSION btree_gist SCHEMA public;
CREATE EXTENSION hstore SCHEMA shop;
CREATE EXTENSION pg_trgm SCHEMA shop;

CREATE TYPE shop.state AS ENUM ('new', 'paid; really', 'it''s sent');
CREATE TYPE shop.money_of AS (amount numeric(12,2), currency text COLLATE "C");
CREATE FUNCTION shop.apart(numeric, numeric) RETURNS float8 LANGUAGE sql IMMUTABLE AS 'SELECT $1 - $2';
CREATE TYPE shop.price_range AS RANGE (SUBTYPE = numeric, SUBTYPE_DIFF = shop.apart);
CREATE DOMAIN shop.short AS varchar(20) DEFAULT 'x' NOT NULL CONSTRAINT not_blank CHECK (VALUE <> '');
COMMENT ON DOMAIN shop.short IS 'short'; COMMENT ON CONSTRAINT not_blank ON DOMAIN shop.short IS 'not blank';
REVOKE USAGE ON TYPE shop.state FROM PUBLIC; GRANT USAGE ON TYPE shop.state TO clerk;

CREATE FUNCTION shop.total(amounts numeric[], factor numeric DEFAULT 1.5) RETURNS numeric LANGUAGE sql STABLE STRICT SECURITY DEFINER
    PARALLEL SAFE COST 7 SET search_path = pg_catalog, pg_temp AS 'SELECT factor * sum(each) FROM unnest(amounts) AS each';
CREATE FUNCTION shop.touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.note := coalesce(new.note, ''); RETURN new; END $$;
CREATE FUNCTION shop.standard(a int, OUT b int, OUT c text) LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT a + 1, 'c'; END;
CREATE FUNCTION shop.seen() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN END $$;
CREATE FUNCTION shop.as_text(shop.money_of) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT ($1).currency';
CREATE FUNCTION shop.rows_of(n int) RETURNS SETOF int LANGUAGE sql ROWS 42 AS 'SELECT generate_series(1, n)';
CREATE FUNCTION shop.of_json(a json, VARIADIC b json[] DEFAULT '{}') RETURNS json LANGUAGE sql AS 'SELECT a';
CREATE PROCEDURE shop.close_day(IN day date) LANGUAGE plpgsql AS $$ BEGIN NULL; END $$;
CREATE AGGREGATE shop.joined(text) (SFUNC = textcat, STYPE = text, INITCOND = '');
CREATE AGGREGATE shop.how_many(*) (SFUNC = int8inc, STYPE = int8, INITCOND = '0');
COMMENT ON AGGREGATE shop.how_many(*) IS 'count';
COMMENT ON FUNCTION shop.touch() IS 'touch'; COMMENT ON PROCEDURE shop.close_day(date) IS 'close';
REVOKE EXECUTE ON FUNCTION shop.total(numeric[], numeric) FROM PUBLIC; GRANT EXECUTE ON FUNCTION shop.total(numeric[], numeric) TO clerk;
ALTER FUNCTION shop.total(numeric[], numeric) OWNER TO clerk;

CREATE SEQUENCE shop.numbers AS int INCREMENT BY 5 MINVALUE 10 MAXVALUE 100000 START WITH 20 CACHE 3 CYCLE;
GRANT USAGE ON SEQUENCE shop.numbers TO reader;

CREATE TABLE shop.customers (
    id bigint GENERATED ALWAYS AS IDENTITY (START WITH 100 INCREMENT BY 10) PRIMARY KEY,
    name shop.short,
    mail text COLLATE "C" NOT NULL,
    state shop.state DEFAULT 'new',
    number int DEFAULT nextval('shop.numbers'),
    attributes shop.hstore,
    json jsonb DEFAULT '{"a": 1}',
    doubled numeric GENERATED ALWAYS AS (number * 2) STORED,
    CONSTRAINT mail_once UNIQUE (mail) WITH (fillfactor = 90),
    CONSTRAINT positive CHECK (number > 0)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05, toast.autovacuum_enabled = false);
ALTER TABLE shop.customers ALTER mail SET STATISTICS 500, ALTER mail SET STORAGE EXTERNAL, ALTER mail SET (n_distinct = -0.5);
COMMENT ON TABLE shop.customers IS 'those who buy'; COMMENT ON COLUMN shop.customers.mail IS 'where they are reached';
GRANT SELECT ON shop.customers TO reader, "Odd, role"; GRANT INSERT, UPDATE ON shop.customers TO clerk WITH GRANT OPTION;
GRANT UPDATE (name) ON shop.customers TO reader;
CREATE INDEX customers_lower ON shop.customers (lower(mail)) WHERE number > 5;
CREATE UNIQUE INDEX customers_json ON shop.customers ((json ->> 'a'), id) INCLUDE (number);
ALTER TABLE shop.customers CLUSTER ON customers_json;
COMMENT ON INDEX shop.customers_lower IS 'by mail';
CREATE STATISTICS shop.together (ndistinct, dependencies) ON mail, state FROM shop.customers;
ALTER STATISTICS shop.together SET STATISTICS 77;

CREATE TABLE shop.orders (id serial PRIMARY KEY, customer bigint NOT NULL, note varchar(100), during tsrange, placed timestamptz DEFAULT now(),
    CONSTRAINT "to customer" FOREIGN KEY (customer) REFERENCES shop.customers ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    CONSTRAINT apart EXCLUDE USING gist (customer WITH =, during WITH &&));
ALTER TABLE shop.orders ADD CONSTRAINT "short note" CHECK (length(note) < 90) NOT VALID;
ALTER TABLE shop.orders REPLICA IDENTITY FULL;
ALTER TABLE shop.orders OWNER TO clerk;
CREATE TRIGGER "touch; it" BEFORE INSERT OR UPDATE OF note ON shop.orders FOR EACH ROW WHEN (new.id > 0) EXECUTE FUNCTION shop.touch('it''s');
CREATE TRIGGER off AFTER DELETE ON shop.orders FOR EACH STATEMENT EXECUTE FUNCTION shop.touch();
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON shop.orders DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION shop.touch();
ALTER TABLE shop.orders DISABLE TRIGGER off; ALTER TABLE shop.orders ENABLE ALWAYS TRIGGER "touch; it";
COMMENT ON TRIGGER off ON shop.orders IS 'not now';
ALTER TABLE shop.orders ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON shop.orders AS RESTRICTIVE FOR UPDATE TO reader, "Odd, role" USING (customer > 0) WITH CHECK (customer > 1);
CREATE POLICY every ON shop.orders USING (EXISTS (SELECT FROM shop.customers WHERE customers.id = orders.customer));
CREATE RULE kept AS ON DELETE TO shop.customers WHERE old.id < 0 DO ALSO (UPDATE shop.orders SET note = 'x' WHERE false);
COMMENT ON CONSTRAINT positive ON shop.customers IS 'positive'; COMMENT ON POLICY own ON shop.orders IS 'own';

CREATE TABLE shop.events (id int, day date, kind text NOT NULL DEFAULT 'k', PRIMARY KEY (id, day), CHECK (id >= 0)) PARTITION BY RANGE (day);
CREATE TABLE shop.events_1 PARTITION OF shop.events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE shop.events_rest PARTITION OF shop.events DEFAULT PARTITION BY LIST (id);
CREATE TABLE shop.events_rest_1 PARTITION OF shop.events_rest FOR VALUES IN (1, 2);
CREATE INDEX events_kind ON shop.events (kind);
CREATE INDEX alone ON shop.events_1 (kind, day);
CREATE TRIGGER of_all AFTER INSERT ON shop.events FOR EACH ROW EXECUTE FUNCTION shop.touch();
ALTER TABLE shop.events_1 DISABLE TRIGGER of_all;
ALTER TABLE shop.events_1 ALTER kind SET DEFAULT 'other';
CREATE TABLE shop.refers (id int PRIMARY KEY, event int, day date, FOREIGN KEY (event, day) REFERENCES shop.events);

CREATE TABLE shop.parent (id int PRIMARY KEY, name text); CREATE TABLE shop.child (extra int) INHERITS (shop.parent);
CREATE UNLOGGED TABLE shop.cache (key text PRIMARY KEY, value text);
CREATE TABLE "Odd ""schema""; --"."Odd ""table""; --" ("Odd ""column""; --" int CHECK ("Odd ""column""; --" > 1), "json_table" int, "user" text);
CREATE INDEX "Odd ""index""; --" ON "Odd ""schema""; --"."Odd ""table""; --" ("json_table", "Odd ""column""; --");
CREATE TABLE shop.nothing ();
CREATE TABLE shop.printed (raw json DEFAULT '{"json": 1}'::json, day date, name text, at timestamp, json int, "system_user" int,
    CHECK (extract(year FROM day) > 1900), CHECK (at AT TIME ZONE 'UTC' > '2000-01-01' AND extract(epoch FROM at) > 0),
    CHECK (substring(name FROM 1 FOR 2) <> 'a' AND trim(BOTH FROM name) <> '' AND position('x' IN name) = 0 AND name SIMILAR TO '%'),
    CHECK (name IS NORMALIZED AND name COLLATE "C" > 'a' AND json IN (1, 2, 3) AND json BETWEEN 0 AND 9 AND raw IS NOT NULL),
    CHECK (CASE WHEN json = 1 THEN true ELSE (raw ->> 'a') IS DISTINCT FROM 'b' END), CHECK ("system_user" > json));
CREATE INDEX ON shop.printed ((raw ->> 'json'), json, (extract(month FROM day))) WHERE "system_user" > 0;

CREATE VIEW shop.named WITH (security_barrier = true) AS SELECT id, name, mail FROM shop.customers WHERE number > 0 WITH LOCAL CHECK OPTION;
GRANT SELECT ON shop.named TO reader; COMMENT ON VIEW shop.named IS 'named';
CREATE MATERIALIZED VIEW shop.totals AS SELECT customer, count(*) AS orders FROM shop.orders GROUP BY customer;
CREATE UNIQUE INDEX totals_customer ON shop.totals (customer);
ALTER TABLE shop.named ALTER mail SET DEFAULT 'm';

ALTER DEFAULT PRIVILEGES FOR ROLE clerk IN SCHEMA shop GRANT SELECT ON TABLES TO reader;
