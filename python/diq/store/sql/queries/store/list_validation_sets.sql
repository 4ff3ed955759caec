-- All validation sets.
SELECT validation_set_id, name, dataset_id, n_samples, seed FROM validation_sets ORDER BY validation_set_id
