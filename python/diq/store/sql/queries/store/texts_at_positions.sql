-- Texts of some samples of a dataset, in no particular order.
-- Params: $dataset_id INTEGER, $positions BIGINT[]
-- Returns: position BIGINT, messages VARCHAR, rejected VARCHAR (null unless a preference pair)
SELECT d.position, CAST(s.messages AS VARCHAR) AS messages, CAST(s.rejected AS VARCHAR) AS rejected
FROM dataset_samples AS d
JOIN (SELECT unnest(CAST($positions AS BIGINT[])) AS position) AS wanted USING (position)
JOIN samples AS s USING (sample_id)
WHERE d.dataset_id = $dataset_id
