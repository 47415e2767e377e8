-- The hash of an enum is that of its object id: a row belongs to another partition on another cluster.
-- says: source.hash_partitions
-- says: hash_of_an_enum.moods
-- says: hash_of_an_enum.arrays
--- schema
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE DOMAIN moods_domain AS mood[];
CREATE TABLE moods (m mood, id int, PRIMARY KEY (m, id)) PARTITION BY HASH (m, id);
CREATE TABLE moods_0 PARTITION OF moods FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE moods_1 PARTITION OF moods FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE arrays (m moods_domain PRIMARY KEY) PARTITION BY HASH (m);
CREATE TABLE arrays_0 PARTITION OF arrays FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE TABLE fine (id int PRIMARY KEY, m mood) PARTITION BY HASH (id);
