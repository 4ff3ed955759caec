-- Texts of a recorded selection in rank order, whatever became of its dataset since.
-- Params: $selection_id BIGINT
-- Returns: messages VARCHAR
SELECT CAST(s.messages AS VARCHAR) AS messages
FROM selection_samples AS c
JOIN samples AS s USING (sample_id)
WHERE c.selection_id = $selection_id
ORDER BY c.rank
