-- Validation sets of a run that some sample of a dataset has a finite dot with.
-- Params: $dataset_id INTEGER, $run_id BIGINT
SELECT v.name
FROM run_validation_sets AS rv
JOIN validation_sets AS v USING (validation_set_id)
WHERE rv.run_id = $run_id AND EXISTS (
    FROM influence_scores AS i
    JOIN dataset_samples AS s ON s.sample_id = i.sample_id AND s.dataset_id = $dataset_id
    WHERE i.run_id = $run_id AND i.validation_set_id = rv.validation_set_id AND isfinite(i.dot)
)
ORDER BY v.validation_set_id
