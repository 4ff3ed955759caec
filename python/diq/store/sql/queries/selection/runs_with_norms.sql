-- Finished influence runs of a dataset that hold a gradient norm, oldest first.
-- Params: $dataset_id INTEGER
SELECT r.run_id, r.method, m.name AS model
FROM runs AS r
JOIN run_datasets AS rd ON rd.run_id = r.run_id AND rd.dataset_id = $dataset_id AND rd.state = 'sealed'
LEFT JOIN models AS m ON m.model_id = r.model_id
WHERE
    r.kind = 'influence'
    AND EXISTS (
        SELECT 1
        FROM influence_scores AS i
        JOIN dataset_samples AS d ON d.sample_id = i.sample_id AND d.dataset_id = $dataset_id
        WHERE i.run_id = r.run_id AND i.gradient_norm IS NOT NULL
    )
ORDER BY r.run_id
