-- Wide rows, and what every schema has many of. Runs beside second.sql.
INSERT INTO orders (id, customer, reference, state, placed_at, paid_at, sent_at, due_on, net, tax, discount, currency, warehouse, shelf,
                    weight, note, street, city, zip, client, flags, position, lead_time, revision)
SELECT i, md5('customer' || 1 + noise(i) % :rows(150000))::uuid, 'R-' || md5(i::text), (ARRAY['new', 'paid', 'sent', 'returned'])[1 + i % 4]::order_state,
       timestamptz '2022-01-01+00' + i * interval '2 minutes', timestamptz '2022-01-02+00' + i * interval '2 minutes',
       CASE WHEN i % 3 > 0 THEN timestamptz '2022-01-04+00' + i * interval '2 minutes' END, date '2022-01-01' + (i / 700)::int,
       noise(i) / 7.0, noise(i) / 37.0, noise(i + 1) / 3.0, 'EUR', noise(i + 2) % 60, (i % 400)::smallint,
       noise(i + 3) / 9.0, CASE WHEN i % 5 = 0 THEN 'leave it with ' || md5((i + 4)::text) END, 'Street ' || md5((i + 5)::text),
       'City ' || noise(i) % 3000, noise(i + 6)::text, '10.0.0.0'::inet + noise(i + 7), (i % 256)::int::bit(8),
       point(noise(i) / 1e4, noise(i + 8) / 1e4), noise(i + 9) % 90000 * interval '1 second', (i % 3)::int
  FROM generate_series(1::bigint, :rows(1000000)) i;
INSERT INTO customers
SELECT md5('customer' || i)::uuid, i, 'user' || i || '@' || md5(i::text) || '.example', 'Name ' || md5((i * 3)::text),
       CASE WHEN i % 7 > 0 THEN '+49 ' || noise(i) END, (ARRAY['de', 'fr', 'us', 'jp', 'br'])[1 + i % 5],
       date '1950-01-01' + (noise(i) % 20000)::int, noise(i + 1) / 100.0,
       jsonb_build_object('street', md5((i + 1)::text), 'city', 'City ' || noise(i) % 3000, 'zip', noise(i + 2)),
       ARRAY['t' || i % 9, 't' || i % 11], i % 10 > 0, timestamptz '2020-01-01+00' + i * interval '13 minutes'
  FROM generate_series(1::bigint, :rows(150000)) i;
DO $$ BEGIN FOR t IN 1..300 LOOP
    EXECUTE format('INSERT INTO lookup_%s (id, code, label, sorting, changed_at)
        SELECT i, ''c'' || i, md5((i * %s)::text), i %% 17, timestamptz ''2026-01-01+00'' + i * interval ''1 hour'' FROM generate_series(1, 100) i', t, t);
    IF t > 1 AND t % 3 = 0 THEN EXECUTE format('UPDATE lookup_%s SET parent = id WHERE id %% 4 = 0', t); END IF;
END LOOP; END $$;
ALTER TABLE orders ADD PRIMARY KEY (id);
CREATE UNIQUE INDEX orders_reference ON orders (reference);
CREATE INDEX orders_customer_placed ON orders (customer, placed_at);
CREATE INDEX orders_open ON orders (warehouse, due_on) WHERE state IN ('new', 'paid');
CREATE INDEX orders_month ON orders (date_trunc('month', placed_at AT TIME ZONE 'UTC'), state);
ALTER TABLE customers ADD PRIMARY KEY (id), ADD UNIQUE (number);
CREATE UNIQUE INDEX customers_email ON customers (lower(email));
CREATE INDEX customers_country_created ON customers (country, created_at DESC);
CREATE INDEX customers_inactive ON customers (created_at) WHERE NOT is_active;
