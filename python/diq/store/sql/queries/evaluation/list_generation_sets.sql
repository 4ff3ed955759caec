-- Every set of answers to a benchmark that is kept, one row a repeat, with the model that gave them.
-- Params:  $run_id BIGINT (null: of all runs)
-- Returns: run_id, model_id, model, backend, benchmark, questions, repeat, n_questions, n_kept
SELECT
    g.run_id, r.model_id, m.name AS model, r.method AS backend, g.benchmark, g.questions, g.repeat,
    max(g.n_questions) AS n_questions, sum(g.n_rows)::BIGINT AS n_kept
FROM generation_files AS g
JOIN runs AS r USING (run_id)
LEFT JOIN models AS m USING (model_id)
WHERE r.kind = 'evaluate' AND ($run_id IS NULL OR g.run_id = $run_id)
GROUP BY ALL
ORDER BY g.run_id, min(g.created_at), g.benchmark, g.questions, g.repeat
