-- Dots of one validation set of a run for the samples of a dataset, in no order: the position says which row is which.
-- Params: $dataset_id INTEGER, $run_id BIGINT, $validation_set_id INTEGER, $norms, $folds BOOLEAN (what else to read)
SELECT
    d.position,
    i.dot,
    CASE WHEN $norms THEN i.gradient_norm END AS gradient_norm,
    CASE WHEN $folds THEN i.fold_dots END AS fold_dots
FROM influence_scores AS i
JOIN dataset_samples AS d ON d.sample_id = i.sample_id AND d.dataset_id = $dataset_id
WHERE i.run_id = $run_id AND i.validation_set_id = $validation_set_id
