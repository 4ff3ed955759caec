-- Mark a run complete on a dataset.
-- Params: $run_id BIGINT, $dataset_id INTEGER, $sealed_at TIMESTAMP
UPDATE run_datasets SET state = 'sealed', sealed_at = $sealed_at, certificate = NULL
WHERE run_id = $run_id AND dataset_id = $dataset_id
