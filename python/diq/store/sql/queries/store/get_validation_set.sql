-- A validation set by name.
-- Params: $name VARCHAR
SELECT validation_set_id, name, dataset_id, n_samples, seed FROM validation_sets WHERE name = $name
