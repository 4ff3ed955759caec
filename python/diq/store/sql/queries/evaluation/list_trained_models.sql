-- Every model that was trained, oldest first, with what it was trained on and from.
SELECT
    t.model_id, t.run_id, r.method, t.base_model_id, b.name AS base, t.start_model_id, m.name AS start,
    d.name AS dataset, s.selection_id, s.name AS selection, s.strategy, s.ratio
FROM trained_models AS t
LEFT JOIN runs AS r ON r.run_id = t.run_id
LEFT JOIN models AS b ON b.model_id = t.base_model_id
LEFT JOIN models AS m ON m.model_id = t.start_model_id
LEFT JOIN datasets AS d ON d.dataset_id = t.dataset_id
LEFT JOIN selections AS s ON s.selection_id = t.selection_id
ORDER BY t.created_at, t.run_id
