-- Long values, keys in random order, partitions, no key. Runs beside first.sql.
INSERT INTO documents
SELECT i, md5('customer' || 1 + noise(i) % :rows(150000))::uuid, 'Title ' || md5(i::text),
       jsonb_build_object('owner', md5((i % 5000)::text), 'size', noise(i), 'labels', jsonb_build_array('l' || i % 13, 'm' || i % 101, 'n' || noise(i) % 2000),
           'address', jsonb_build_object('city', 'City ' || noise(i) % 3000, 'zip', noise(i + 1)), 'history', jsonb_build_array(noise(i + 2), noise(i + 3))),
       repeat('All work and no play makes document ' || i || ' a dull one. ', 20 + (i % 150)::int),
       CASE WHEN i % 4 > 0 THEN noise_bytes(i, 80 + (i % 60)::int) END,
       to_tsvector('simple', 'word' || noise(i) % 900 || ' word' || noise(i + 1) % 900 || ' word' || i % 50),
       timestamptz '2025-01-01+00' + i * interval '4 minutes'
  FROM generate_series(1::bigint, :rows(65000)) i;
INSERT INTO sessions
SELECT md5('session' || i)::uuid, md5('customer' || 1 + noise(i) % :rows(150000))::uuid, noise_bytes(i, 1),
       timestamptz '2026-04-01+00' + noise(i) * interval '1 second', timestamptz '2026-04-02+00' + noise(i + 1) * interval '1 second',
       'Agent/' || i % 40 || '.' || i % 7
  FROM generate_series(1::bigint, :rows(500000)) i;
INSERT INTO events
SELECT i, timestamptz '2026-01-01+00' + i * interval '9 seconds', noise(i) % 5000, 'kind ' || i % 23, noise(i + 1) / 1000.0,
       CASE WHEN i % 3 = 0 THEN jsonb_build_object('seq', i, 'unit', 'kWh', 'ok', i % 2 = 0) END
  FROM generate_series(1::bigint, :rows(1200000)) i;
INSERT INTO audit
SELECT timestamptz '2026-01-01+00' + i * interval '11 seconds', 'user' || noise(i) % 5000, 'changed ' || md5(i::text),
       jsonb_build_object('amount', noise(i), 'state', i % 4), jsonb_build_object('amount', noise(i + 1), 'state', (i + 1) % 4)
  FROM generate_series(1::bigint, :rows(300000)) i;
ALTER TABLE documents ADD PRIMARY KEY (id);
CREATE INDEX documents_properties ON documents USING gin (properties jsonb_path_ops);
CREATE INDEX documents_owner ON documents (owner, changed_at DESC);
CREATE INDEX documents_changed ON documents USING brin (changed_at);
ALTER TABLE sessions ADD PRIMARY KEY (id);
CREATE INDEX sessions_customer ON sessions (customer);
CREATE INDEX sessions_seen ON sessions (seen_at);
ALTER TABLE events ADD PRIMARY KEY (id, happened_at);
CREATE INDEX events_device ON events (device, happened_at);
CREATE INDEX audit_at ON audit (at);
