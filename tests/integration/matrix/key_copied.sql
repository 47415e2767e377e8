-- As `copied.sql`, with the value (or the array) in the primary key: column `{value}` of the bank.
INSERT INTO {table} SELECT format('{mode}: %s', fate), {value}, '#' || n
  FROM {bank}, unnest(ARRAY['copied', 'alike', 'touched', 'deleted']) fate WHERE {number} IS NOT NULL;
INSERT INTO {table} SELECT '{mode}: changed', {value}, '#' || n FROM {bank} WHERE {number} % 2 = 0;
