-- Every number of every evaluation, oldest first, with the model that answered and the protocol.
-- Returns: base_model_id is null in runs that do not tell
SELECT
    e.run_id, r.model_id, m.name AS model, r.result ->> '$.base_model_id' AS base_model_id, b.name AS base,
    r.method AS backend, CAST(r.config AS VARCHAR) AS protocol, e.benchmark, e.questions, e.repeat, e.scoring, e.n,
    e.n_right_strict, e.n_unanswered, e.n_cut, e.accuracy, e.standard_error, e.created_at
FROM evaluations AS e
JOIN runs AS r ON r.run_id = e.run_id
LEFT JOIN models AS m ON m.model_id = r.model_id
LEFT JOIN models AS b ON b.model_id = r.result ->> '$.base_model_id'
ORDER BY e.created_at, e.run_id, e.benchmark, e.questions, e.repeat
