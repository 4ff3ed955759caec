-- Forget how far a run has come with a dataset; insert_run_dataset follows in the same transaction.
-- Params: $run_id BIGINT, $dataset_id INTEGER
DELETE FROM run_datasets WHERE run_id = $run_id AND dataset_id = $dataset_id
