-- Samples of a dataset that the gradient index of a run lacks.
-- Params: $dataset_id INTEGER, $run_id BIGINT
-- Returns: n BIGINT
SELECT count(*) AS n
FROM dataset_samples AS d
ANTI JOIN gradient_rows AS g ON g.sample_id = d.sample_id AND g.run_id = $run_id
WHERE d.dataset_id = $dataset_id
