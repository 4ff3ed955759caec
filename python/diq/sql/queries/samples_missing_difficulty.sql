-- Samples of a dataset that a difficulty run has no row for, in order.
-- Params: $dataset_id INTEGER, $run_id BIGINT
SELECT CAST(d.sample_id AS VARCHAR) AS sample_id
FROM dataset_samples AS d
ANTI JOIN difficulty_scores AS f ON f.run_id = $run_id AND f.sample_id = d.sample_id
WHERE d.dataset_id = $dataset_id
ORDER BY d.position
