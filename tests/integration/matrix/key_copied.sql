-- As `copied.sql` and `copied_for_mode.sql`, with the value (or the array) in the primary key: column `{value}` of the bank.
INSERT INTO {table} SELECT format('%s: %s', mode, fate), {value}, '#' || n
  FROM {bank}, unnest({modes}) mode, unnest(ARRAY['copied', 'alike', 'touched', 'deleted']) fate WHERE {number} IS NOT NULL;
INSERT INTO {table} SELECT format('%s: changed', mode), {value}, '#' || n FROM {bank}, unnest({modes}) mode WHERE {number} % 2 = 0;
