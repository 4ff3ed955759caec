-- How far a run has come with a dataset.
-- Params: $run_id BIGINT, $dataset_id INTEGER
SELECT state FROM run_datasets WHERE run_id = $run_id AND dataset_id = $dataset_id
