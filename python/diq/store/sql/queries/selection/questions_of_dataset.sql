-- Texts of a dataset with their positions, in its order.
-- Params: $dataset_id INTEGER
SELECT d.position, CAST(s.messages AS VARCHAR) AS messages
FROM dataset_samples AS d
JOIN samples AS s USING (sample_id)
WHERE d.dataset_id = $dataset_id
ORDER BY d.position
