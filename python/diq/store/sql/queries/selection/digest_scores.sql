-- The digest of what a ranking is made from (see the macro diq_digest).
-- Params: $dataset_id INTEGER, $influence_run, $difficulty_run, $score_run BIGINT (null: not used)
SELECT diq_digest($dataset_id, $influence_run, $difficulty_run, $score_run) AS digest
