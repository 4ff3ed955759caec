-- Validation sets that an influence run has dots for.
-- Params: $run_id BIGINT
SELECT v.validation_set_id, v.name, v.n_samples
FROM run_validation_sets AS rv
JOIN validation_sets AS v USING (validation_set_id)
WHERE rv.run_id = $run_id
ORDER BY v.validation_set_id
