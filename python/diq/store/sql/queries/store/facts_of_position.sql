-- Where a sample of a dataset came from, and what else its row held.
-- Params: $dataset_id INTEGER, $sample_id VARCHAR
-- Returns: position BIGINT, line BIGINT, source VARCHAR, split VARCHAR, attributes VARCHAR
SELECT s.position, s.line, o.path AS source, s.split, CAST(s.attributes AS VARCHAR) AS attributes
FROM dataset_samples AS s
JOIN sources AS o USING (dataset_id, source_id)
WHERE s.dataset_id = $dataset_id AND s.sample_id = CAST($sample_id AS UUID)
