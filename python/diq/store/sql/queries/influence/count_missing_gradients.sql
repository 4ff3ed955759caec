-- Samples of a dataset that a gradient index lacks.
-- Params: $dataset_id INTEGER, $index_run_id BIGINT
-- Returns: n BIGINT
SELECT count(*) AS n
FROM dataset_samples AS d
ANTI JOIN gradient_rows AS g ON g.sample_id = d.sample_id AND g.run_id = $index_run_id
WHERE d.dataset_id = $dataset_id
