-- Position of every sample of a dataset, ascending.
-- Params: $dataset_id INTEGER
SELECT position FROM dataset_samples WHERE dataset_id = $dataset_id ORDER BY position
