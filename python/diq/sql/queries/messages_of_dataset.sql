-- Texts of a dataset in its order.
-- Params: $dataset_id INTEGER
-- Returns: messages VARCHAR
SELECT CAST(s.messages AS VARCHAR) AS messages
FROM dataset_samples AS d
JOIN samples AS s USING (sample_id)
WHERE d.dataset_id = $dataset_id
ORDER BY d.position
