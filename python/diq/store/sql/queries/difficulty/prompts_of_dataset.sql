-- Ids and texts of a dataset in no order, so that they stream: sorting would hold all texts at once.
-- Params:  $dataset_id INTEGER
-- Returns: sample_id VARCHAR, messages VARCHAR
SELECT CAST(d.sample_id AS VARCHAR) AS sample_id, CAST(s.messages AS VARCHAR) AS messages
FROM dataset_samples AS d
JOIN samples AS s USING (sample_id)
WHERE d.dataset_id = $dataset_id
