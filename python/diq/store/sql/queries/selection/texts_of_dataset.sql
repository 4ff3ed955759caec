-- Texts of a dataset, in no particular order: sorting them would cost more than reading them.
-- Params: $dataset_id INTEGER
-- Returns: position BIGINT, messages VARCHAR, rejected VARCHAR (null unless a preference pair)
SELECT d.position, CAST(s.messages AS VARCHAR) AS messages, CAST(s.rejected AS VARCHAR) AS rejected
FROM dataset_samples AS d
JOIN samples AS s USING (sample_id)
WHERE d.dataset_id = $dataset_id
