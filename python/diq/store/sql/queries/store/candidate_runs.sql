-- Runs that hold scores of a dataset, oldest first; the label tells runs of one method apart.
-- Params: $kind VARCHAR, $dataset_id INTEGER, $model VARCHAR (name; null for any)
SELECT
    r.run_id,
    r.method,
    concat_ws(', ', r.method, r.config ->> '$.precondition') AS label,
    r.created_at,
    rd.state,
    rd.certificate IS NOT NULL AND rd.state = 'open' AS partial,
    m.name AS model
FROM runs AS r
JOIN run_datasets AS rd ON rd.run_id = r.run_id AND rd.dataset_id = $dataset_id
LEFT JOIN models AS m ON m.model_id = r.model_id
WHERE r.kind = $kind AND ($model IS NULL OR m.name = $model)
ORDER BY r.run_id
