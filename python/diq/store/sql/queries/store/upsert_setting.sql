-- Set a fact about the store.
-- Params: $name VARCHAR, $value VARCHAR
INSERT OR REPLACE INTO settings (name, value) VALUES ($name, $value)
