-- The sample that a row of a dataset holds, or repeats.
-- Params: $dataset_id INTEGER, $position BIGINT
-- Returns: sample_id VARCHAR
SELECT CAST(sample_id AS VARCHAR) AS sample_id
FROM dataset_samples
WHERE dataset_id = $dataset_id AND position = $position
UNION ALL
SELECT CAST(sample_id AS VARCHAR) AS sample_id
FROM duplicates
WHERE dataset_id = $dataset_id AND position = $position
