-- Mark a run open on a dataset.
-- Params: $run_id BIGINT, $dataset_id INTEGER, $started_at TIMESTAMP, $certificate JSON (null unless a part was chosen before)
INSERT INTO run_datasets (run_id, dataset_id, state, started_at, certificate)
VALUES ($run_id, $dataset_id, 'open', $started_at, $certificate)
