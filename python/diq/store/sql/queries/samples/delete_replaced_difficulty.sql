-- Forget the difficulty that a score file changes or completes; insert_resolved_difficulty follows.
-- Params: $run_id BIGINT
DELETE FROM difficulty_scores
WHERE run_id = $run_id AND sample_id IN (SELECT sample_id FROM resolved_scores WHERE new_difficulty)
