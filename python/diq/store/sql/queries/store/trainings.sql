-- Finished trainings with their curves, latest last.
-- Params: $run_ids BIGINT[] (null: all)
SELECT
    r.run_id,
    r.method,
    m.name AS model,
    r.result ->> '$.trained_model' AS trained_model,
    r.result ->> '$.selection' AS selection,
    r.result ->> '$.dataset' AS dataset,
    r.result ->> '$.ratio' AS ratio,
    r.result -> '$.curve' AS curve,
    r.result -> '$.validation_curve' AS validation_curve,
    r.result -> '$.validation' AS validation
FROM runs AS r
LEFT JOIN models AS m ON m.model_id = r.model_id
WHERE
    r.kind = 'train'
    AND r.result IS NOT NULL
    AND ($run_ids IS NULL OR list_contains(CAST($run_ids AS BIGINT[]), r.run_id))
ORDER BY r.run_id
