-- Every sample of a dataset in order, and whether a row of influence is missing for any of the validation sets.
-- Params: $dataset_id INTEGER, $run_id BIGINT, $validation_set_ids INTEGER[]
-- Returns: sample_id VARCHAR, messages VARCHAR, missing BOOLEAN
WITH have AS (
    SELECT sample_id, count(*) AS n
    FROM influence_scores
    WHERE run_id = $run_id AND list_contains($validation_set_ids, validation_set_id)
    GROUP BY sample_id
)
SELECT
    CAST(d.sample_id AS VARCHAR) AS sample_id,
    CAST(s.messages AS VARCHAR) AS messages,
    coalesce(h.n, 0) < len($validation_set_ids) AS missing
FROM dataset_samples AS d
JOIN samples AS s USING (sample_id)
LEFT JOIN have AS h USING (sample_id)
WHERE d.dataset_id = $dataset_id
ORDER BY d.position
