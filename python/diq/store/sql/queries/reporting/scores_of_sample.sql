-- Every score of a sample, with the run that it is of.
-- Params: $sample_id VARCHAR
SELECT i.run_id, 'dot' AS score, v.name AS of, i.dot AS value, i.reason
FROM influence_scores AS i
JOIN validation_sets AS v ON v.validation_set_id = i.validation_set_id
WHERE i.sample_id = CAST($sample_id AS UUID)
UNION ALL
SELECT f.run_id, 'difficulty', d.dimension, d.value, f.reason
FROM difficulty_scores AS f
CROSS JOIN unnest(['knowledge', 'reasoning', 'overall'], [f.knowledge, f.reasoning, f.overall]) AS d (dimension, value)
WHERE f.sample_id = CAST($sample_id AS UUID)
UNION ALL
SELECT t.run_id, CASE WHEN t.validation_set_id IS NULL THEN 'perplexity' ELSE 'similarity' END, v.name,
    coalesce(t.perplexity, t.similarity), t.reason
FROM text_scores AS t
LEFT JOIN validation_sets AS v ON v.validation_set_id = t.validation_set_id
WHERE t.sample_id = CAST($sample_id AS UUID)
ORDER BY score, run_id, of
