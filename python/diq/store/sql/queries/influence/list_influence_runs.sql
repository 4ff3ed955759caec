-- Every influence run on every dataset that it scored or is scoring.
SELECT r.run_id, d.dataset_id, d.name AS dataset, m.name AS model, r.method, rd.state
FROM runs AS r
JOIN run_datasets AS rd USING (run_id)
JOIN datasets AS d USING (dataset_id)
LEFT JOIN models AS m USING (model_id)
WHERE r.kind = 'influence'
ORDER BY d.name, r.run_id
