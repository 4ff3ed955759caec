-- Samples of a dataset without a difficulty, by reason.
-- Params: $run_id BIGINT, $dataset_id INTEGER
SELECT f.reason, count(*) AS n
FROM difficulty_scores AS f
JOIN dataset_samples AS d ON d.sample_id = f.sample_id AND d.dataset_id = $dataset_id
WHERE f.run_id = $run_id AND f.reason IS NOT NULL
GROUP BY f.reason
ORDER BY n DESC, f.reason
