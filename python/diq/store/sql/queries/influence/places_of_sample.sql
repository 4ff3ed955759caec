-- Where a sample stands: every dataset that holds it, and its position there.
-- Params: $sample_id VARCHAR
-- Returns: dataset VARCHAR, position BIGINT
SELECT d.name AS dataset, s.position
FROM dataset_samples AS s
JOIN datasets AS d USING (dataset_id)
WHERE s.sample_id = CAST($sample_id AS UUID)
ORDER BY d.dataset_id, s.position
