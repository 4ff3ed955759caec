-- Text scores of a run that is of no validation set, for the samples of a dataset, in no order: the position says which
-- is which.
-- Params: $dataset_id INTEGER, $run_id BIGINT
SELECT d.position, coalesce(t.perplexity, t.value) AS score
FROM text_scores AS t
JOIN dataset_samples AS d ON d.sample_id = t.sample_id AND d.dataset_id = $dataset_id
WHERE t.run_id = $run_id
