-- Record how the scored part of a dataset was chosen, and what it is good for.
-- Params: $run_id BIGINT, $dataset_id INTEGER, $certificate JSON
UPDATE run_datasets SET certificate = $certificate WHERE run_id = $run_id AND dataset_id = $dataset_id
