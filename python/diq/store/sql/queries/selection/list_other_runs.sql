-- Runs that are not scores, such as trainings and guards.
SELECT r.run_id, r.kind, r.method, m.name AS model, r.created_at, r.result
FROM runs AS r
LEFT JOIN models AS m USING (model_id)
WHERE
    r.kind NOT IN (
        'influence', 'difficulty', 'perplexity', 'similarity', 'length', 'ifd', 'bm25', 'rds', 'pass_rate'
    )
ORDER BY r.run_id
