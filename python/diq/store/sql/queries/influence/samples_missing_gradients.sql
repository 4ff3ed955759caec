-- Every sample of a dataset in order, and whether a gradient index lacks it.
-- Params: $dataset_id INTEGER, $index_run_id BIGINT
-- Returns: sample_id VARCHAR, messages VARCHAR, missing BOOLEAN
SELECT
    CAST(d.sample_id AS VARCHAR) AS sample_id,
    CAST(s.messages AS VARCHAR) AS messages,
    g.sample_id IS NULL AS missing
FROM dataset_samples AS d
JOIN samples AS s USING (sample_id)
LEFT JOIN gradient_rows AS g ON g.sample_id = d.sample_id AND g.run_id = $index_run_id
WHERE d.dataset_id = $dataset_id
ORDER BY d.position
