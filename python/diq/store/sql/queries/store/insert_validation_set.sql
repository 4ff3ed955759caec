-- Make a validation set.
-- Params:  $name VARCHAR, $dataset_id INTEGER, $n_samples INTEGER, $seed BIGINT, $created_at TIMESTAMPTZ
-- Returns: validation_set_id INTEGER
INSERT INTO validation_sets (validation_set_id, name, dataset_id, n_samples, seed, created_at)
VALUES (nextval('validation_set_ids'), $name, $dataset_id, $n_samples, $seed, $created_at)
RETURNING validation_set_id
