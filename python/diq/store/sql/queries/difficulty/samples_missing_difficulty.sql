-- Every sample of a dataset in order, and whether a row of a difficulty run is missing for it.
-- Params:  $dataset_id INTEGER, $run_id BIGINT
-- Returns: position BIGINT, sample_id BLOB (16 bytes), missing BOOLEAN
SELECT d.position, CAST(d.sample_id AS BLOB) AS sample_id, f.sample_id IS NULL AS missing
FROM dataset_samples AS d
LEFT JOIN difficulty_scores AS f ON f.run_id = $run_id AND f.sample_id = d.sample_id
WHERE d.dataset_id = $dataset_id
ORDER BY d.position
