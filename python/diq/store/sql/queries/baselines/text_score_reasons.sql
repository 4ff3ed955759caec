-- Samples of a dataset without a text score, by reason.
-- Params: $run_id BIGINT, $dataset_id INTEGER
SELECT t.reason, count(DISTINCT t.sample_id) AS n
FROM text_scores AS t
JOIN dataset_samples AS d ON d.sample_id = t.sample_id AND d.dataset_id = $dataset_id
WHERE t.run_id = $run_id AND t.reason IS NOT NULL
GROUP BY t.reason
ORDER BY n DESC, t.reason
