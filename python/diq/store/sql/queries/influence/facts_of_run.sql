-- Validation sets of a run, with what was found out about each.
-- Params: $run_id BIGINT
SELECT v.validation_set_id, v.name, rv.fold_sizes, rv.gradient_norm, rv.kept_share
FROM run_validation_sets AS rv
JOIN validation_sets AS v USING (validation_set_id)
WHERE rv.run_id = $run_id
ORDER BY v.validation_set_id
