-- Samples of each source of a dataset.
-- Params: $dataset_id INTEGER
SELECT source_id, count(*) AS n FROM dataset_samples WHERE dataset_id = $dataset_id GROUP BY source_id
