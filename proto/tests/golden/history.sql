-- The golden history: every kind of message that pgoutput has, in a fixed order.

-- Identities: a change that keeps the key, one that changes it, a delete.
INSERT INTO by_default VALUES (1, 'one', 1.10), (2, NULL, 'NaN'), (3, '', 0);
UPDATE by_default SET v = 'uno' WHERE id = 1;
UPDATE by_default SET id = 20 WHERE id = 2;
DELETE FROM by_default WHERE id = 20;
INSERT INTO by_index VALUES (1, 1, 'a'), (2, 2, 'b');
UPDATE by_index SET v = 'c' WHERE id = 1;
UPDATE by_index SET other = 3 WHERE id = 1;
DELETE FROM by_index WHERE id = 2;
INSERT INTO by_full VALUES (1, 'a'), (1, 'a'), (NULL, NULL);
UPDATE by_full SET v = 'b' WHERE id = 1;
DELETE FROM by_full WHERE id IS NULL;
INSERT INTO by_nothing VALUES (1, 'insert only');
INSERT INTO no_columns DEFAULT VALUES;
INSERT INTO "Odd ""schema"" ü"."two
lines" VALUES (1, 'значение');

-- TOAST: unchanged, unchanged with a changed key, changed.
INSERT INTO toasted VALUES (1, repeat('x', 2100), 'a');
UPDATE toasted SET small = 'b';
UPDATE toasted SET id = 2;
UPDATE toasted SET big = repeat('y', 2100);
INSERT INTO toasted_full VALUES (1, repeat('z', 2100), 'a');
UPDATE toasted_full SET small = 'b';
DELETE FROM toasted_full;

-- TRUNCATE.
INSERT INTO parent (v) VALUES ('p');
INSERT INTO child (parent) VALUES (1);
TRUNCATE by_full;
TRUNCATE by_index, by_nothing RESTART IDENTITY;
TRUNCATE parent CASCADE;
TRUNCATE parent, child RESTART IDENTITY CASCADE;

-- Partitions, with a row that moves; generated columns.
INSERT INTO parted VALUES (1, '2023-05-05', 'old'), (2, '2024-05-05', 'new');
UPDATE parted SET day = '2025-01-01' WHERE id = 1;
TRUNCATE parted;
INSERT INTO computed VALUES (1);
UPDATE computed SET id = 4;

-- Types.
INSERT INTO kinds VALUES (1, true, -1, 1.5, 'Infinity', 1234567890.0987654321, E'tab\tnew\nline \\ "ü"', 'vc', 'c', 'x', 'name', '\x00ff10',
    'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '0044-03-15 BC', 'infinity', '2024-02-29 12:00:00+02', '23:59:59.999999', '1 mon -2 days 03:00', '{"a": [1, null]}',
    '{"b": {"c": "ü"}}', '{{1,2},{3,NULL}}', ARRAY['', NULL, 'a"b'], 'happy ''quoted''', '{sad,ok}', ROW(1, 'x,y'), ARRAY[ROW(2, NULL)::pair], 5, '[1,5)', '{[1,3),[5,7)}',
    '192.168.0.1/24', '08:00:2b:01:02:03', B'10110', '12.34', 4294967295, '(1,2)');
INSERT INTO kinds (id, f8, n, d) VALUES (2, 'NaN', '-0.00001', '-infinity');

-- Logical messages; the second is not transactional, and so comes before its surroundings.
SELECT pg_logical_emit_message(true, 'golden.transactional', 'text');
BEGIN;
INSERT INTO by_default VALUES (4, 'around a message', 4);
SELECT pg_logical_emit_message(false, 'golden.immediate', '\x000102ff'::bytea);
SELECT pg_logical_emit_message(true, '', '\x'::bytea);
COMMIT;

-- A change of shape between changes, and subtransactions.
ALTER TABLE by_default ADD added mood DEFAULT 'ok';
INSERT INTO by_default VALUES (5, 'wider', 5, 'sad');
ALTER TABLE by_default DROP n;
BEGIN;
INSERT INTO by_default VALUES (6, 'kept');
SAVEPOINT a;
INSERT INTO by_default VALUES (7, 'taken back');
ROLLBACK TO a;
INSERT INTO by_default VALUES (8, 'kept too');
COMMIT;

-- An origin.
SELECT pg_replication_origin_create('golden ''origin''');
SELECT pg_replication_origin_session_setup('golden ''origin''');
BEGIN;
SELECT pg_replication_origin_xact_setup('A/BCDEF012', '2024-01-01 00:00:00+00');
INSERT INTO by_default VALUES (9, 'from elsewhere');
COMMIT;
SELECT pg_replication_origin_session_reset();

-- A transaction that is decoded while it runs, with an aborted and a kept subtransaction.
BEGIN;
INSERT INTO bulk SELECT generate_series(1, 10);
INSERT INTO ballast SELECT i, repeat('b', 100) FROM generate_series(1, 500) i;
SELECT pg_logical_emit_message(true, 'golden.streamed', 'inside');
CALL wait_for_decoding();
SAVEPOINT a;
INSERT INTO bulk SELECT generate_series(11, 15);
INSERT INTO ballast SELECT i, repeat('b', 100) FROM generate_series(1, 500) i;
CALL wait_for_decoding();
ROLLBACK TO a;
SAVEPOINT b;
DELETE FROM bulk WHERE id = 3;
UPDATE bulk SET id = 100 WHERE id = 4;
UPDATE by_default SET v = 'streamed' WHERE id = 1;
INSERT INTO "Odd ""schema"" ü"."two
lines" VALUES (2, 'streamed');
INSERT INTO kinds (id, m) VALUES (3, 'sad');
TRUNCATE by_index;
INSERT INTO ballast SELECT i, repeat('b', 100) FROM generate_series(1, 500) i;
CALL wait_for_decoding();
RELEASE b;
COMMIT;

-- The same, aborted as a whole.
BEGIN;
INSERT INTO bulk SELECT generate_series(201, 205);
INSERT INTO ballast SELECT i, repeat('b', 100) FROM generate_series(1, 500) i;
CALL wait_for_decoding();
ROLLBACK;

-- The same, with an origin.
SELECT pg_replication_origin_session_setup('golden ''origin''');
BEGIN;
SELECT pg_replication_origin_xact_setup('A/BCDEF099', '2024-01-02 00:00:00+00');
INSERT INTO bulk SELECT generate_series(301, 303);
INSERT INTO ballast SELECT i, repeat('b', 100) FROM generate_series(1, 500) i;
CALL wait_for_decoding();
COMMIT;
SELECT pg_replication_origin_session_reset();

-- Prepared transactions: committed, rolled back, streamed.
BEGIN;
INSERT INTO bulk VALUES (401);
PREPARE TRANSACTION 'golden ''committed''';
CALL wait_for_decoding();
COMMIT PREPARED 'golden ''committed''';
BEGIN;
INSERT INTO bulk VALUES (402);
PREPARE TRANSACTION 'golden rolled back';
CALL wait_for_decoding();
ROLLBACK PREPARED 'golden rolled back';
BEGIN;
INSERT INTO bulk SELECT generate_series(411, 415);
INSERT INTO ballast SELECT i, repeat('b', 100) FROM generate_series(1, 500) i;
PREPARE TRANSACTION 'golden streamed';
CALL wait_for_decoding();
COMMIT PREPARED 'golden streamed';

SELECT pg_logical_emit_message(true, 'golden.end', '');
