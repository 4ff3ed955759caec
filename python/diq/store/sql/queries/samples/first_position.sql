-- The first row of a dataset that is a sample.
-- Params: $dataset_id INTEGER
-- Returns: position BIGINT
SELECT min(position) AS position
FROM dataset_samples
WHERE dataset_id = $dataset_id
