-- Samples of a dataset without a dot with a validation set, by reason.
-- Params: $run_id BIGINT, $dataset_id INTEGER, $validation_set_id INTEGER
SELECT i.reason, count(*) AS n
FROM influence_scores AS i
JOIN dataset_samples AS d ON d.sample_id = i.sample_id AND d.dataset_id = $dataset_id
WHERE i.run_id = $run_id AND i.validation_set_id = $validation_set_id AND i.reason IS NOT NULL
GROUP BY i.reason
ORDER BY n DESC, i.reason
