-- Add the dots of a score file.
-- Params: $run_id BIGINT, $validation_set_id INTEGER
INSERT INTO influence_scores (run_id, sample_id, validation_set_id, dot)
SELECT $run_id, sample_id, $validation_set_id, dot FROM resolved_scores WHERE new_influence ORDER BY line
