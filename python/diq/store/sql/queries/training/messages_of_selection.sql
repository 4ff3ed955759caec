-- Texts of a recorded selection in rank order.
-- Params: $selection_id BIGINT
-- Returns: messages VARCHAR, rejected VARCHAR (null unless a preference pair)
SELECT CAST(s.messages AS VARCHAR) AS messages, CAST(s.rejected AS VARCHAR) AS rejected
FROM selection_samples AS c
JOIN samples AS s USING (sample_id)
WHERE c.selection_id = $selection_id
ORDER BY c.rank
