-- Runs of difficulty and influence on every dataset, with the models that they belong to.
SELECT d.name AS dataset, r.kind, r.run_id, r.method, m.name AS model, m.source, s.state
FROM run_datasets AS s
JOIN runs AS r USING (run_id)
JOIN datasets AS d USING (dataset_id)
LEFT JOIN models AS m USING (model_id)
WHERE r.kind IN ('difficulty', 'influence')
ORDER BY d.name, r.run_id
