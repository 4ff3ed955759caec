-- Make a dataset.
-- Params:  $name VARCHAR, $kind VARCHAR, $created_at TIMESTAMPTZ
-- Returns: dataset_id INTEGER
INSERT INTO datasets (dataset_id, name, kind, created_at)
VALUES (nextval('dataset_ids'), $name, $kind, $created_at)
RETURNING dataset_id
