-- Every gradient index, and the model of its run.
SELECT i.run_id, i.folder, i.kind, m.name AS model
FROM gradient_indexes AS i
JOIN runs AS r USING (run_id)
LEFT JOIN models AS m USING (model_id)
ORDER BY i.run_id
