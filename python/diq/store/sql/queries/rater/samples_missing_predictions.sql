-- Every sample of a dataset in order, and whether a rater's row is missing for any of its validation sets.
-- Params:  $dataset_id INTEGER, $run_id BIGINT, $n_sets INTEGER
-- Returns: sample_id VARCHAR, missing BOOLEAN
WITH have AS (
    SELECT sample_id, count(*) AS n FROM influence_scores WHERE run_id = $run_id GROUP BY sample_id
)
SELECT CAST(d.sample_id AS VARCHAR) AS sample_id, coalesce(h.n, 0) < $n_sets AS missing
FROM dataset_samples AS d
LEFT JOIN have AS h ON h.sample_id = d.sample_id
WHERE d.dataset_id = $dataset_id
ORDER BY d.position
