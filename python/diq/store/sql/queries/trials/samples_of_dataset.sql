-- Positions and ids of the samples of a dataset, in order.
-- Params: $dataset_id INTEGER
SELECT position, CAST(sample_id AS BLOB) AS sample_id FROM dataset_samples WHERE dataset_id = $dataset_id ORDER BY position
