-- Names of the columns that came with a dataset's samples.
-- Params: $dataset_id INTEGER
SELECT DISTINCT unnest(json_keys(attributes)) AS name
FROM dataset_samples
WHERE dataset_id = $dataset_id AND attributes IS NOT NULL
ORDER BY name
