-- Fold dots of one validation set of a run for the samples of a dataset, in no order: the position says which row is
-- which. A part of dots_of_validation_set, for a selection that needs no more.
-- Params: $dataset_id INTEGER, $run_id BIGINT, $validation_set_id INTEGER
SELECT d.position, i.fold_dots
FROM influence_scores AS i
JOIN dataset_samples AS d ON d.sample_id = i.sample_id AND d.dataset_id = $dataset_id
WHERE i.run_id = $run_id AND i.validation_set_id = $validation_set_id
