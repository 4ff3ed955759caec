-- Texts of the samples of a dataset between two positions, in order.
-- Params:  $dataset_id INTEGER, $first, $last BIGINT
-- Returns: messages VARCHAR
SELECT CAST(s.messages AS VARCHAR) AS messages
FROM dataset_samples AS d
JOIN samples AS s USING (sample_id)
WHERE d.dataset_id = $dataset_id AND d.position BETWEEN $first AND $last
ORDER BY d.position
