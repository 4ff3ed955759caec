-- Every sample of a dataset in order, and whether a row of a run of text scores is missing for it.
-- Params:  $dataset_id INTEGER, $run_id BIGINT, $validation_set_ids INTEGER[] (empty for scores of none)
-- Returns: position BIGINT, sample_id BLOB (16 bytes), missing BOOLEAN
WITH have AS (
    SELECT sample_id, count(*) AS n
    FROM text_scores
    WHERE run_id = $run_id
      AND (
          len($validation_set_ids) = 0
          OR list_contains(CAST($validation_set_ids AS INTEGER[]), validation_set_id)
      )
    GROUP BY sample_id
)
SELECT
    d.position,
    CAST(d.sample_id AS BLOB) AS sample_id,
    coalesce(h.n, 0) < greatest(len($validation_set_ids), 1) AS missing
FROM dataset_samples AS d
LEFT JOIN have AS h USING (sample_id)
WHERE d.dataset_id = $dataset_id
ORDER BY d.position
