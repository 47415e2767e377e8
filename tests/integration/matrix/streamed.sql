-- What happens while the program streams in `{mode}`. Every way has rows of its own, so that nothing covers up another's fault.
BEGIN;
INSERT INTO keyed.{table}
    SELECT format('%s: %s #%s', '{mode}', fate, n), val, list
      FROM {bank}, unnest(ARRAY['inserted', 'inserted and changed', 'inserted and deleted']) fate;
INSERT INTO whole_row.{table}
    SELECT format('%s: %s #%s', '{mode}', fate, n), val, list
      FROM {bank}, unnest(ARRAY['inserted', 'inserted and changed', 'inserted and deleted']) fate, generate_series(1, 2);
COMMIT;
BEGIN;
UPDATE keyed.{table} t SET val = b.val, list = b.list
  FROM {bank} b, unnest(ARRAY['changed', 'from NULL', 'inserted and changed']) fate WHERE t.at = format('%s: %s #%s', '{mode}', fate, b.prev);
UPDATE keyed.{table} SET val = NULL, list = NULL WHERE at LIKE '{mode}: to NULL%';
UPDATE keyed.{table} SET forced = '{}' WHERE at LIKE '{mode}: touched%';
UPDATE keyed.{table} SET at = replace(at, 'moved', 'moved away') WHERE at LIKE '{mode}: moved #%';
COMMIT;
UPDATE keyed.{table} t SET val = b.val, list = b.list FROM {bank} b WHERE t.at = format('%s: to NULL and back #%s', '{mode}', b.prev);
DELETE FROM keyed.{table} WHERE at LIKE '{mode}: %deleted #%';
BEGIN;
UPDATE whole_row.{table} t SET val = b.val, list = b.list
  FROM {bank} b, unnest(ARRAY['changed', 'from NULL', 'inserted and changed']) fate,
       (SELECT at, min(ctid) AS ctid FROM whole_row.{table} GROUP BY at) one
 WHERE one.at = format('%s: %s #%s', '{mode}', fate, b.prev) AND t.ctid = one.ctid;
UPDATE whole_row.{table} SET val = NULL, list = NULL
 WHERE ctid IN (SELECT min(ctid) FROM whole_row.{table} WHERE at LIKE '{mode}: to NULL #%' GROUP BY at);
COMMIT;
DELETE FROM whole_row.{table}
 WHERE ctid IN (SELECT max(ctid) FROM whole_row.{table} WHERE at LIKE '{mode}: %deleted #%' GROUP BY at);
