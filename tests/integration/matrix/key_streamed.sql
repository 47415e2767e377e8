-- As `streamed.sql`, with the value (or the array) in the primary key: rows are found by it.
INSERT INTO {table} SELECT '{mode}: inserted', {value}, '#' || n FROM {bank} WHERE {number} IS NOT NULL;
BEGIN;
UPDATE {table} SET at = at || '!' WHERE fate = '{mode}: touched';
UPDATE {table} t SET val = b.{value} FROM {bank} a, {bank} b
 WHERE fate = '{mode}: changed' AND t.at = '#' || a.n AND b.{number} = a.{number} + 1;
-- To what its own equality does not tell from it: 1.0 to 1.00, 0 to -0, a month to 30 days.
UPDATE {table} t SET val = b.{value} FROM {bank} b
 WHERE fate = '{mode}: alike' AND ROW(b.{value})::record = ROW(t.val)::record AND ROW(b.{value})::text <> ROW(t.val)::text;
DELETE FROM {table} WHERE fate = '{mode}: deleted';
COMMIT;
