-- Types and objects that a database makes for itself, in a schema whose name needs quotes.
CREATE SCHEMA "odd types";

CREATE TYPE "odd types".mood AS ENUM (
    'ok', 'with space', 'quote''s', 'double"quote', 'comma,{brace}(paren)', 'back\slash', 'NULL', 'null', 'ünï', '-',
    'sixty-three bytes of label, which is as long as a label may be!');
ALTER TYPE "odd types".mood ADD VALUE 'added later' BEFORE 'ok';
-- A cast that hides what the value is: nothing may find rows by it.
CREATE FUNCTION "odd types".hide("odd types".mood) RETURNS text LANGUAGE sql IMMUTABLE AS $$SELECT 'the same for all'$$;
CREATE CAST ("odd types".mood AS text) WITH FUNCTION "odd types".hide("odd types".mood);

CREATE DOMAIN "odd types".positive AS integer CHECK (VALUE > 0);
CREATE DOMAIN "odd types".nested AS "odd types".positive CHECK (VALUE < 1000000);
CREATE DOMAIN "odd types".short_text AS varchar(8) CHECK (VALUE <> 'refused');
CREATE DOMAIN "odd types".padded AS char(6);
CREATE DOMAIN "odd types".good_mood AS "odd types".mood CHECK (VALUE <> 'null');
CREATE DOMAIN "odd types".int_list AS integer[] CHECK (cardinality(VALUE) < 10);
CREATE DOMAIN "odd types".moods AS "odd types".mood[];
CREATE DOMAIN "odd types".span AS int4range CHECK (upper(VALUE) IS NOT NULL OR isempty(VALUE));
CREATE DOMAIN "odd types".real_number AS double precision;

CREATE TYPE "odd types".pair AS (a integer, b text);
CREATE DOMAIN "odd types".full_pair AS "odd types".pair CHECK (VALUE IS NULL OR (VALUE).a IS NOT NULL);
CREATE DOMAIN "odd types".pairs AS "odd types".pair[];
CREATE TYPE "odd types".shrunk AS (a integer, gone text, c numeric);
ALTER TYPE "odd types".shrunk DROP ATTRIBUTE gone;
CREATE TYPE "odd types".nothing AS ();
CREATE TABLE "odd types"."Row Type" (id integer PRIMARY KEY, "b ""c" text, d double precision);

CREATE TYPE "odd types".float_range AS RANGE (subtype = double precision);
CREATE TYPE "odd types".text_range AS RANGE (subtype = text, collation = "C");
CREATE TYPE "odd types".mood_range AS RANGE (subtype = "odd types".mood);
CREATE TYPE "odd types".pair_range AS RANGE (subtype = "odd types".pair);
CREATE TYPE "odd types".list_range AS RANGE (subtype = integer[]);

CREATE TYPE "odd types".nest AS (
    "P" "odd types".pair, ps "odd types".pair[], m "odd types".mood, ms "odd types".mood[], d "odd types".positive,
    ds "odd types".nested[], dp "odd types".full_pair, r "odd types".float_range, f double precision, c "char", x xml, n numeric(8,2));

CREATE FUNCTION "odd types"."Only One"(integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE OPERATOR "odd types".=== (LEFTARG = integer, RIGHTARG = integer, FUNCTION = int4eq);
CREATE COLLATION "odd types"."Coll" FROM "C";
CREATE TEXT SEARCH DICTIONARY "odd types"."Dict" (TEMPLATE = simple);
CREATE TEXT SEARCH CONFIGURATION "odd types"."Config" (COPY = simple);

-- One table a type in each of these; the table is called like the type.
CREATE SCHEMA keyed;
CREATE SCHEMA whole_row;
CREATE SCHEMA as_key;
CREATE SCHEMA as_list_key;
