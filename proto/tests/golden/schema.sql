-- The tables of the golden history, and two publications with names that need quoting.
CREATE TABLE by_default (id int PRIMARY KEY, v text, n numeric);
CREATE TABLE by_index (id int NOT NULL, other int NOT NULL, v text);
CREATE UNIQUE INDEX by_index_key ON by_index (id, other);
ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_key;
CREATE TABLE by_full (id int, v text);
ALTER TABLE by_full REPLICA IDENTITY FULL;
CREATE TABLE by_nothing (id int, v text);
ALTER TABLE by_nothing REPLICA IDENTITY NOTHING;
CREATE TABLE no_columns ();
CREATE TABLE toasted (id int PRIMARY KEY, big text, small text);
ALTER TABLE toasted ALTER big SET STORAGE EXTERNAL;
CREATE TABLE toasted_full (id int, big text, small text);
ALTER TABLE toasted_full ALTER big SET STORAGE EXTERNAL;
ALTER TABLE toasted_full REPLICA IDENTITY FULL;
CREATE TABLE parent (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text);
CREATE TABLE child (id serial PRIMARY KEY, parent int REFERENCES parent);
CREATE TABLE parted (id int, day date, v text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE parted_old PARTITION OF parted FOR VALUES FROM (MINVALUE) TO ('2024-01-01');
CREATE TABLE parted_new PARTITION OF parted FOR VALUES FROM ('2024-01-01') TO (MAXVALUE);
CREATE TABLE computed (id int PRIMARY KEY, doubled int GENERATED ALWAYS AS (id * 2) STORED);

CREATE SCHEMA "Odd ""schema"" ü";
CREATE TABLE "Odd ""schema"" ü"."two
lines" ("Key ""k""" int PRIMARY KEY, "ключ" text);

CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy ''quoted''');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TABLE kinds (
    id bigint PRIMARY KEY, b bool, i2 int2, f4 float4, f8 float8, n numeric, t text, vc varchar(20), c char(5), one "char", na name,
    by bytea, u uuid, d date, ts timestamp, tz timestamptz, tm time, iv interval, j json, jb jsonb, ia int[], ta text[], m mood, ma mood[],
    p pair, pa pair[], dom positive, r int4range, mr int4multirange, ip inet, mac macaddr, bits varbit, mo money, o oid, pt point);

CREATE TABLE bulk (id int PRIMARY KEY);
-- Not published: fills logical_decoding_work_mem without filling the captures.
CREATE TABLE ballast (id int, v text);

CREATE PUBLICATION "golden, 'a' ""b""" FOR TABLE by_default, by_index, by_full, by_nothing, no_columns, toasted,
    toasted_full, parent, child, parted, computed, "Odd ""schema"" ü"."two
lines", kinds, bulk;
CREATE PUBLICATION golden_root FOR TABLE parted WITH (publish_via_partition_root = true);

-- Returns when every walsender has decoded all that has been written so far.
CREATE PROCEDURE wait_for_decoding() LANGUAGE plpgsql AS $$
DECLARE
    goal pg_lsn := pg_current_wal_insert_lsn();
BEGIN
    FOR attempt IN 1..3000 LOOP
        IF NOT EXISTS (SELECT FROM pg_stat_get_wal_senders() WHERE sent_lsn < goal) THEN
            RETURN;
        END IF;
        PERFORM pg_sleep(0.01);
    END LOOP;
    RAISE 'the walsenders did not reach % within 30 s', goal;
END
$$;
