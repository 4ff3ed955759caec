-- Texts of a recorded selection in the order of its file.
-- Params: $selection_id BIGINT
-- Returns: messages VARCHAR, rejected VARCHAR (null unless a preference pair)
SELECT CAST(s.messages AS VARCHAR) AS messages, CAST(s.rejected AS VARCHAR) AS rejected
FROM selection_samples AS c
JOIN samples AS s USING (sample_id)
JOIN selections AS k ON k.selection_id = c.selection_id
WHERE c.selection_id = $selection_id
ORDER BY CASE k.file_order WHEN 'easy' THEN c.difficulty WHEN 'hard' THEN -c.difficulty END, c.rank
