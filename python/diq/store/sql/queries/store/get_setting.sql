-- A fact about the store.
-- Params: $name VARCHAR
-- Returns: value VARCHAR
SELECT value FROM settings WHERE name = $name
