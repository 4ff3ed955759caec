-- Texts of a dataset in its order.
-- Params: $dataset_id INTEGER
-- Returns: messages VARCHAR, rejected VARCHAR (null unless a preference pair)
SELECT CAST(s.messages AS VARCHAR) AS messages, CAST(s.rejected AS VARCHAR) AS rejected
FROM dataset_samples AS d
JOIN samples AS s USING (sample_id)
WHERE d.dataset_id = $dataset_id
ORDER BY d.position
