-- Every sample of a dataset in order, and whether a row of influence is missing for any of the validation sets.
-- Params:  $dataset_id INTEGER, $run_id BIGINT, $validation_set_ids INTEGER[]
-- Returns: position BIGINT, sample_id BLOB (16 bytes), missing BOOLEAN
WITH have AS (
    SELECT sample_id, count(*) AS n
    FROM influence_scores
    WHERE run_id = $run_id AND list_contains($validation_set_ids, validation_set_id)
    GROUP BY sample_id
)
SELECT
    d.position,
    CAST(d.sample_id AS BLOB) AS sample_id,
    coalesce(h.n, 0) < len($validation_set_ids) AS missing
FROM dataset_samples AS d
LEFT JOIN have AS h USING (sample_id)
WHERE d.dataset_id = $dataset_id
ORDER BY d.position
