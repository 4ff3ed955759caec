-- Runs that scored samples against a validation set of a dataset, and the datasets that they scored.
-- Params: $dataset_id INTEGER
SELECT DISTINCT r.run_id, d.name AS dataset
FROM validation_sets AS v
JOIN run_validation_sets AS r USING (validation_set_id)
JOIN run_datasets AS s USING (run_id)
JOIN datasets AS d ON d.dataset_id = s.dataset_id
WHERE v.dataset_id = $dataset_id
ORDER BY r.run_id, d.name
