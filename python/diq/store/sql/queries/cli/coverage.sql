-- How many samples of each dataset have each score, by run (and validation set).
WITH pairs AS (
    SELECT rd.run_id, rd.dataset_id, rd.state, r.kind, r.method, m.name AS model
    FROM run_datasets AS rd
    JOIN runs AS r USING (run_id)
    LEFT JOIN models AS m USING (model_id)
),
rows_of AS (
    SELECT run_id, sample_id, validation_set_id, isfinite(dot) AS scored FROM influence_scores
    UNION ALL
    SELECT run_id, sample_id, NULL, reason IS NULL FROM difficulty_scores
    UNION ALL
    SELECT run_id, sample_id, validation_set_id, reason IS NULL FROM text_scores
),
counts AS (
    SELECT p.run_id, p.dataset_id, s.validation_set_id, count(*) FILTER (WHERE s.scored) AS n
    FROM pairs AS p
    JOIN rows_of AS s USING (run_id)
    JOIN dataset_samples AS d ON d.dataset_id = p.dataset_id AND d.sample_id = s.sample_id
    GROUP BY p.run_id, p.dataset_id, s.validation_set_id
)
SELECT
    ds.name AS dataset,
    p.kind AS score,
    p.model,
    v.name AS validation_set,
    p.run_id,
    p.method,
    p.state,
    coalesce(c.n, 0) AS n_scored,
    (SELECT count(*) FROM dataset_samples AS d WHERE d.dataset_id = p.dataset_id) AS n_samples
FROM pairs AS p
JOIN datasets AS ds USING (dataset_id)
LEFT JOIN counts AS c ON c.run_id = p.run_id AND c.dataset_id = p.dataset_id
LEFT JOIN validation_sets AS v ON v.validation_set_id = c.validation_set_id
ORDER BY ds.name, p.kind, p.run_id, v.name
