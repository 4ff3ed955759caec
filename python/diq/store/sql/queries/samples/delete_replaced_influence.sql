-- Forget the dots that a score file changes; insert_resolved_influence follows.
-- Params: $run_id BIGINT, $validation_set_id INTEGER
DELETE FROM influence_scores
WHERE run_id = $run_id
  AND validation_set_id = $validation_set_id
  AND sample_id IN (SELECT sample_id FROM resolved_scores WHERE new_influence)
