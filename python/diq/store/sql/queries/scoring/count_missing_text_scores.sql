-- Samples of a dataset that lack a row of a perplexity or similarity run.
-- Params: $dataset_id INTEGER, $run_id BIGINT, $validation_set_ids INTEGER[] (empty for a perplexity)
-- Returns: n BIGINT
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
SELECT count(*) FILTER (WHERE coalesce(h.n, 0) < greatest(len($validation_set_ids), 1)) AS n
FROM dataset_samples AS d
LEFT JOIN have AS h USING (sample_id)
WHERE d.dataset_id = $dataset_id
