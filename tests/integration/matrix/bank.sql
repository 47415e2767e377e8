-- The arrays of a type's bank: of all values, with NULLs, of pairs, empty, of several dimensions, with other lower bounds.
-- Very long values are left to stand alone.
UPDATE {bank} SET prev = (n + (SELECT max(n) FROM {bank}) - 2) % (SELECT max(n) FROM {bank}) + 1;
UPDATE {bank} b SET list = CASE n
    WHEN 1 THEN ARRAY(SELECT val FROM {bank} WHERE octet_length(ROW(val)::text) < 5000 ORDER BY n)
    WHEN 2 THEN ARRAY[NULL::{type}, b.val, NULL::{type}]
    ELSE ARRAY[b.val, (SELECT val FROM {bank} p WHERE p.n = b.prev AND octet_length(ROW(val)::text) < 5000)] END
 WHERE octet_length(ROW(val)::text) < 5000;
INSERT INTO {bank} (n, val, list) SELECT m.n + k, b.val, more.list
  FROM (SELECT max(n) AS n FROM {bank}) m, {bank} b,
       LATERAL (VALUES (1, '{}'), (2, array_fill(b.val, ARRAY[2], ARRAY[-1])), (3, array_fill(b.val, ARRAY[2, 1], ARRAY[0, 7])),
                       (4, array_fill(NULL::{type}, ARRAY[1, 2, 1])),
                       (5, ARRAY[ARRAY[b.val, NULL::{type}], ARRAY[(SELECT val FROM {bank} p WHERE p.n = 2), b.val]])) AS more (k, list)
 WHERE b.n = 1;
UPDATE {bank} SET prev = (n + (SELECT max(n) FROM {bank}) - 2) % (SELECT max(n) FROM {bank}) + 1;
-- Which values a primary key takes beside each other: distinct to its own equality, short enough for an index.
DO $$
BEGIN
    UPDATE {bank} b SET key_n = k.number FROM (SELECT n, row_number() OVER (ORDER BY n) - 1 AS number
        FROM (SELECT DISTINCT ON (val) n FROM {bank} WHERE octet_length(ROW(val)::text) < 2000 ORDER BY val, n) d) k WHERE k.n = b.n;
    UPDATE {bank} b SET list_key_n = k.number FROM (SELECT n, row_number() OVER (ORDER BY n) - 1 AS number
        FROM (SELECT DISTINCT ON (list) n FROM {bank} WHERE list IS NOT NULL AND octet_length(ROW(list)::text) < 2000 ORDER BY list, n) d) k WHERE k.n = b.n;
EXCEPTION
    -- It has no order at all, or not for two of its values (a composite with xml in it): it is no key.
    WHEN undefined_function THEN NULL;
END $$;
