-- Add the difficulties that pass rates are, except those that are there: from 1, solved every time, to 5, never.
-- Params: $run_id BIGINT (of the pass rates), $difficulty_run BIGINT
INSERT INTO difficulty_scores (run_id, sample_id, overall, reason)
SELECT $difficulty_run, t.sample_id, 5 - 4 * t.value, t.reason
FROM text_scores AS t
ANTI JOIN difficulty_scores AS d ON d.run_id = $difficulty_run AND d.sample_id = t.sample_id
WHERE t.run_id = $run_id
