-- Ids and texts of some samples of a dataset, in the order of their positions.
-- Params: $dataset_id INTEGER, $positions BIGINT[]
SELECT
    d.position,
    CAST(d.sample_id AS VARCHAR) AS sample_id,
    CAST(s.messages AS VARCHAR) AS messages,
    CAST(s.rejected AS VARCHAR) AS rejected
FROM dataset_samples AS d
JOIN (SELECT unnest(CAST($positions AS BIGINT[])) AS position) AS wanted USING (position)
JOIN samples AS s USING (sample_id)
WHERE d.dataset_id = $dataset_id
ORDER BY d.position
