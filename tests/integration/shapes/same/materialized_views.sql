-- Materialized views over a table, one on top of another, with an index; refreshed after the cutover, in the order that the warning gives.
--- schema
CREATE TABLE base (id int PRIMARY KEY, v int);
CREATE MATERIALIZED VIEW sums AS SELECT id % 3 AS g, sum(v) AS s FROM base GROUP BY 1;
CREATE UNIQUE INDEX ON sums (g);
CREATE MATERIALIZED VIEW of_sums AS SELECT max(s) AS m FROM sums;
CREATE VIEW plain_view AS SELECT * FROM sums;
--- rows
INSERT INTO base SELECT i, i FROM generate_series(1, 30) i;
REFRESH MATERIALIZED VIEW sums;
REFRESH MATERIALIZED VIEW of_sums;
--- change: what it is made of
UPDATE base SET v = v * 10 WHERE id > 20;
REFRESH MATERIALIZED VIEW CONCURRENTLY sums;
REFRESH MATERIALIZED VIEW of_sums;
--- change: emptied
TRUNCATE base;
INSERT INTO base VALUES (1, 1), (2, 2), (3, 3);
REFRESH MATERIALIZED VIEW sums;
REFRESH MATERIALIZED VIEW of_sums;
--- after
REFRESH MATERIALIZED VIEW sums;
REFRESH MATERIALIZED VIEW of_sums;
--- same
SELECT string_agg(g || ':' || s, ' ' ORDER BY g) FROM plain_view;
SELECT string_agg(m::text, ' ') FROM of_sums;
