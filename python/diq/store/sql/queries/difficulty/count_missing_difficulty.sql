-- How many samples of a dataset a difficulty run has no row for.
-- Params: $dataset_id INTEGER, $run_id BIGINT
SELECT count(*) AS n
FROM dataset_samples AS d
ANTI JOIN difficulty_scores AS f ON f.run_id = $run_id AND f.sample_id = d.sample_id
WHERE d.dataset_id = $dataset_id
