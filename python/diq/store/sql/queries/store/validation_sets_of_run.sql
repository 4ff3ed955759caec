-- Validation sets that an influence run has dots for, with the method of the run and the sizes of their folds.
-- Params: $run_id BIGINT
SELECT v.validation_set_id, v.name, v.n_samples, rv.fold_sizes, r.method
FROM run_validation_sets AS rv
JOIN runs AS r USING (run_id)
JOIN validation_sets AS v USING (validation_set_id)
WHERE rv.run_id = $run_id
ORDER BY v.validation_set_id
