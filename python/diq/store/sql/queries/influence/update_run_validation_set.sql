-- Note what was found out about a validation set in a run.
-- Params: $run_id BIGINT, $validation_set_id INTEGER, $fold_sizes INTEGER[], $gradient_norm DOUBLE, $kept_share DOUBLE
UPDATE run_validation_sets
SET fold_sizes = $fold_sizes, gradient_norm = $gradient_norm, kept_share = $kept_share
WHERE run_id = $run_id AND validation_set_id = $validation_set_id
