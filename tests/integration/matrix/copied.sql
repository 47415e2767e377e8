-- What is there before the program starts. `{table}` is called like the type; `{bank}` holds its values.
INSERT INTO keyed.{table} SELECT 'copied #' || n, val, list FROM {bank};
INSERT INTO whole_row.{table} SELECT 'copied #' || n, val, list FROM {bank};
INSERT INTO keyed.{table} VALUES ('copied NULL', NULL, NULL);
INSERT INTO whole_row.{table} VALUES ('copied NULL', NULL, NULL), ('copied NULL', NULL, NULL);
