-- Runs that hold scores of a dataset, with how many of its samples each has a row for.
-- Params: $kind VARCHAR, $dataset_id INTEGER, $model VARCHAR (name; null for any)
WITH runs_here AS (
    SELECT r.run_id, r.kind, r.method, r.created_at, rd.state
    FROM runs AS r
    JOIN run_datasets AS rd ON rd.run_id = r.run_id AND rd.dataset_id = $dataset_id
    LEFT JOIN models AS m ON m.model_id = r.model_id
    WHERE r.kind = $kind AND ($model IS NULL OR m.name = $model)
),
rows_here AS (
    SELECT run_id, sample_id FROM influence_scores WHERE run_id IN (SELECT run_id FROM runs_here)
    UNION ALL
    SELECT run_id, sample_id FROM difficulty_scores WHERE run_id IN (SELECT run_id FROM runs_here)
),
counts AS (
    SELECT s.run_id, count(DISTINCT s.sample_id) AS n
    FROM rows_here AS s
    JOIN dataset_samples AS d ON d.sample_id = s.sample_id AND d.dataset_id = $dataset_id
    GROUP BY s.run_id
)
SELECT r.run_id, r.method, r.state, r.created_at, coalesce(c.n, 0) AS n_scored
FROM runs_here AS r
LEFT JOIN counts AS c USING (run_id)
ORDER BY r.run_id
