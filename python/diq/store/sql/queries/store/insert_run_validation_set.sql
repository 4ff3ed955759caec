-- Note that a run has dots for a validation set.
-- Params: $run_id BIGINT, $validation_set_id INTEGER
INSERT INTO run_validation_sets (run_id, validation_set_id)
SELECT $run_id, $validation_set_id
WHERE NOT EXISTS (
    SELECT 1 FROM run_validation_sets WHERE run_id = $run_id AND validation_set_id = $validation_set_id
)
