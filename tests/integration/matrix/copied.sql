-- What is there before the program starts. `{table}` is called like the type; `{bank}` holds its values.
INSERT INTO keyed.{table} SELECT 'copied #' || n, val, list FROM {bank};
INSERT INTO whole_row.{table} SELECT 'copied #' || n, val, list FROM {bank};
INSERT INTO keyed.{table} VALUES ('copied NULL', NULL, NULL);
INSERT INTO whole_row.{table} VALUES ('copied NULL', NULL, NULL), ('copied NULL', NULL, NULL);
-- Rows to be changed by the stream.
INSERT INTO keyed.{table}
    SELECT format('%s: %s #%s', '{mode}', fate, n), val, list
      FROM {bank}, unnest(ARRAY['changed', 'to NULL', 'to NULL and back', 'deleted', 'moved', 'touched']) fate;
INSERT INTO keyed.{table} SELECT format('%s: from NULL #%s', '{mode}', n), NULL, NULL FROM {bank};
-- Of two equal rows one is changed.
INSERT INTO whole_row.{table}
    SELECT format('%s: %s #%s', '{mode}', fate, n), val, list
      FROM {bank}, unnest(ARRAY['changed', 'to NULL', 'deleted']) fate, generate_series(1, 2);
INSERT INTO whole_row.{table} SELECT format('%s: from NULL #%s', '{mode}', n), NULL, NULL FROM {bank}, generate_series(1, 2);
