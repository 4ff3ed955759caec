-- The model of that name; the latest when a changed checkpoint kept its name.
-- Params: $name VARCHAR
SELECT model_id, name FROM models WHERE name = $name ORDER BY added_at DESC, model_id LIMIT 1
