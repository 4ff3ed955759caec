-- Mark a run open on a dataset: the same command that made it scores what it lacks.
-- Params: $run_id BIGINT, $dataset_id INTEGER
UPDATE run_datasets SET state = 'open', sealed_at = NULL WHERE run_id = $run_id AND dataset_id = $dataset_id
