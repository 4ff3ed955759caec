-- Finished influence runs on each dataset, but for those that were computed elsewhere.
SELECT rd.run_id, rd.dataset_id, d.name AS dataset, m.name AS model
FROM run_datasets AS rd
JOIN runs AS r USING (run_id)
JOIN datasets AS d USING (dataset_id)
LEFT JOIN models AS m USING (model_id)
WHERE rd.state = 'sealed' AND r.kind = 'influence' AND r.method != 'external'
ORDER BY ALL
