-- BRIN, GIN, GiST, SP-GiST, hash and covering indexes, statistics objects, a clustered table, one that is partly filled.
--- schema
CREATE TABLE t (id int PRIMARY KEY, at timestamptz, tags text[], doc jsonb, words tsvector, spot point, span int4range, code text, net inet) WITH (fillfactor = 50);
CREATE INDEX ON t USING brin (at);
CREATE INDEX ON t USING gin (tags);
CREATE INDEX ON t USING gin (doc jsonb_path_ops);
CREATE INDEX ON t USING gin (words);
CREATE INDEX ON t USING gist (spot);
CREATE INDEX ON t USING spgist (code);
CREATE INDEX ON t USING hash (code);
CREATE INDEX ON t USING gist (span, id);
CREATE INDEX ON t (code DESC NULLS LAST, id) INCLUDE (at) WHERE id > 3;
CREATE INDEX clustered ON t (at);
ALTER TABLE t CLUSTER ON clustered;
CREATE STATISTICS together (ndistinct, dependencies, mcv) ON code, net FROM t;
ALTER TABLE t ALTER code SET STATISTICS 500;
--- rows
INSERT INTO t SELECT i, '2024-01-01 00:00+00'::timestamptz + i * interval '1 hour', ARRAY['a' || i], jsonb_build_object('i', i), to_tsvector('simple', 'word' || i), point(i, i), int4range(i, i + 3), 'c' || i % 7, ('10.0.0.' || i % 200)::inet FROM generate_series(1, 200) i;
--- change: every indexed column
UPDATE t SET at = at + interval '1 day', tags = tags || ARRAY['b'], doc = doc || '{"x": 1}', words = to_tsvector('simple', 'other'), spot = point(0, 0), span = 'empty', code = upper(code), net = '::1' WHERE id % 2 = 0;
--- change: none of them (heap-only)
UPDATE t SET id = id WHERE id < 50;
--- change: deleted
DELETE FROM t WHERE id % 3 = 0;
