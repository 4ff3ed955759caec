-- Samples of a dataset with a text score outside a range.
-- Params: $run_id BIGINT, $dataset_id INTEGER, $least, $most DOUBLE (null: no bound)
SELECT count(*) AS n
FROM text_scores AS t
JOIN dataset_samples AS d ON d.sample_id = t.sample_id AND d.dataset_id = $dataset_id
WHERE
    t.run_id = $run_id
    AND isfinite(t.value)
    AND (t.value < CAST($least AS DOUBLE) OR t.value > CAST($most AS DOUBLE)) IS TRUE
