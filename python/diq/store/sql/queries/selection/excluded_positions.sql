-- Positions that any of some guards leaves out of a dataset, ascending.
-- Params: $dataset_id INTEGER, $run_ids BIGINT[]
SELECT DISTINCT d.position
FROM exclusions AS e
JOIN dataset_samples AS d USING (sample_id)
WHERE d.dataset_id = $dataset_id AND list_contains(CAST($run_ids AS BIGINT[]), e.run_id)
ORDER BY d.position
