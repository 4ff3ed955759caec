-- How many datasets a run has scores of.
-- Params: $run_id BIGINT
SELECT count(*) AS n FROM run_datasets WHERE run_id = $run_id
