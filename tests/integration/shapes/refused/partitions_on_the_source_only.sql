-- Changes of a partitioned table come by partition: the target needs the same partitions.
-- says: target.schema
-- says: partitions_on_the_source_only.logs_1
-- says: partition of
--- schema
CREATE TABLE logs (id int, at int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE logs_1 PARTITION OF logs FOR VALUES FROM (0) TO (10);
CREATE TABLE fine (id int PRIMARY KEY);
--- target
CREATE TABLE logs (id int, at int, PRIMARY KEY (id, at));
CREATE TABLE fine (id int PRIMARY KEY);
