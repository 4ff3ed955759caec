-- A run and its state on each dataset that it scores; one row with nulls for a run that scores none.
-- Params:  $run_id BIGINT
-- Returns: fingerprint VARCHAR, dataset_id INTEGER, state VARCHAR
SELECT r.fingerprint, d.dataset_id, d.state
FROM runs AS r
LEFT JOIN run_datasets AS d USING (run_id)
WHERE r.run_id = $run_id
ORDER BY d.dataset_id
