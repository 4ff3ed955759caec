-- Runs with all that was recorded of them.
-- Params: $run_ids BIGINT[]
SELECT
    r.run_id,
    r.kind,
    r.method,
    m.name AS model,
    m.source AS model_source,
    CAST(r.config AS VARCHAR) AS config,
    CAST(r.environment AS VARCHAR) AS environment,
    CAST(r.result AS VARCHAR) AS result,
    r.created_at
FROM runs AS r
LEFT JOIN models AS m ON m.model_id = r.model_id
WHERE list_contains(CAST($run_ids AS BIGINT[]), r.run_id)
ORDER BY r.run_id
