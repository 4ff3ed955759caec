-- One row a sample with its difficulty and influence.
-- Params: $dataset, $model VARCHAR, $run, $difficulty_run BIGINT (null: the only one)
SELECT *
FROM diq_scores($dataset, $model, run := $run, difficulty_run := $difficulty_run)
