-- Every sample of a dataset in order, and whether a gradient index lacks it.
-- Params:  $dataset_id INTEGER, $run_id BIGINT (of the index)
-- Returns: position BIGINT, sample_id BLOB (16 bytes), missing BOOLEAN
SELECT d.position, CAST(d.sample_id AS BLOB) AS sample_id, g.sample_id IS NULL AS missing
FROM dataset_samples AS d
LEFT JOIN gradient_rows AS g ON g.sample_id = d.sample_id AND g.run_id = $run_id
WHERE d.dataset_id = $dataset_id
ORDER BY d.position
