-- Samples of a dataset that lack a row of influence for any of the validation sets.
-- Params: $dataset_id INTEGER, $run_id BIGINT, $validation_set_ids INTEGER[]
-- Returns: n BIGINT
WITH have AS (
    SELECT sample_id, count(*) AS n
    FROM influence_scores
    WHERE run_id = $run_id AND list_contains($validation_set_ids, validation_set_id)
    GROUP BY sample_id
)
SELECT count(*) FILTER (WHERE coalesce(h.n, 0) < len($validation_set_ids)) AS n
FROM dataset_samples AS d
LEFT JOIN have AS h USING (sample_id)
WHERE d.dataset_id = $dataset_id
