-- Source of every sample of a dataset, in the order of the positions.
-- Params: $dataset_id INTEGER
SELECT position, source_id FROM dataset_samples WHERE dataset_id = $dataset_id ORDER BY position
