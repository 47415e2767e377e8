ALTER TABLE orders ADD FOREIGN KEY (customer) REFERENCES customers (id);
ALTER TABLE documents ADD FOREIGN KEY (owner) REFERENCES customers (id) ON DELETE CASCADE;
