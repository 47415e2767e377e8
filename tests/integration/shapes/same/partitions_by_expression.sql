-- Partitioned by an expression and a boolean.
--- schema
CREATE TABLE events (at timestamptz NOT NULL, done bool, v text) PARTITION BY RANGE (date_part('year', at AT TIME ZONE 'UTC'));
CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (2000) TO (2024) PARTITION BY LIST (done);
CREATE TABLE events_1_done PARTITION OF events_1 FOR VALUES IN (true);
CREATE TABLE events_1_open PARTITION OF events_1 FOR VALUES IN (false, NULL);
CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM (2024) TO (MAXVALUE);
DO $$ DECLARE t text; BEGIN FOREACH t IN ARRAY '{events_1_done,events_1_open,events_2}'::text[] LOOP EXECUTE format('ALTER TABLE %I REPLICA IDENTITY FULL', t); END LOOP; END $$;
--- rows
INSERT INTO events SELECT '2023-01-01 00:00+00'::timestamptz + i * interval '1 month', i % 3 = 0, 'v' FROM generate_series(1, 24) i;
--- change: done
UPDATE events SET done = true WHERE NOT done AND at < '2023-06-01';
--- change: moved in time
UPDATE events SET at = at + interval '1 year' WHERE done IS TRUE AND at < '2024-01-01';
UPDATE events SET done = NULL, at = '2023-12-31 23:59:59.999999+00' WHERE v = 'v' AND at > '2024-11-01';
