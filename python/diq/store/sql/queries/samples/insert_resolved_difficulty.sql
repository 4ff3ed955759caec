-- Add the difficulty of a score file.
-- Params: $run_id BIGINT
INSERT INTO difficulty_scores (run_id, sample_id, knowledge, reasoning, overall)
SELECT $run_id, sample_id, knowledge, reasoning, overall FROM resolved_scores WHERE new_difficulty ORDER BY line
