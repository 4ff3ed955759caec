-- How the scored part of a dataset was chosen; null unless the run is open and was scored in part.
-- Params: $run_id BIGINT, $dataset_id INTEGER
SELECT certificate FROM run_datasets WHERE run_id = $run_id AND dataset_id = $dataset_id
