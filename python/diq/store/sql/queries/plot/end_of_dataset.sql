-- The position behind the last sample of a dataset.
-- Params: $dataset_id INTEGER
SELECT coalesce(max(position) + 1, 0) AS position FROM dataset_samples WHERE dataset_id = $dataset_id
