-- Every score of a sample, with the run that it is of.
-- Params: $sample_id VARCHAR
WITH levels AS (
    SELECT
        f.run_id,
        f.reason,
        unnest([
            {'dimension': 'knowledge', 'value': f.knowledge},
            {'dimension': 'reasoning', 'value': f.reasoning},
            {'dimension': 'overall', 'value': f.overall}
        ], recursive := true)
    FROM difficulty_scores AS f
    WHERE f.sample_id = CAST($sample_id AS UUID)
)
SELECT i.run_id, 'dot' AS score, v.name AS of, i.dot AS value, i.reason
FROM influence_scores AS i
JOIN validation_sets AS v ON v.validation_set_id = i.validation_set_id
WHERE i.sample_id = CAST($sample_id AS UUID)
UNION ALL
SELECT d.run_id, 'difficulty', d.dimension, d.value, d.reason
FROM levels AS d
UNION ALL
SELECT
    t.run_id,
    r.kind,
    v.name,
    coalesce(t.perplexity, t.similarity, t.value),
    t.reason
FROM text_scores AS t
JOIN runs AS r ON r.run_id = t.run_id
LEFT JOIN validation_sets AS v ON v.validation_set_id = t.validation_set_id
WHERE t.sample_id = CAST($sample_id AS UUID)
ORDER BY score, run_id, of
