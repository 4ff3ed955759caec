-- Similarities (or other text scores) of one validation set of a run for the samples of a dataset, in no order: the
-- position says which is which.
-- Params: $dataset_id INTEGER, $run_id BIGINT, $validation_set_id INTEGER
SELECT d.position, coalesce(t.similarity, t.value) AS similarity
FROM text_scores AS t
JOIN dataset_samples AS d ON d.sample_id = t.sample_id AND d.dataset_id = $dataset_id
WHERE t.run_id = $run_id AND t.validation_set_id = $validation_set_id
