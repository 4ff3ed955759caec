-- Difficulty of every sample of a dataset in its order, for strategies that use no dots.
-- Params: $dataset_id INTEGER, $difficulty VARCHAR, $difficulty_run BIGINT
SELECT
    d.position,
    CASE $difficulty WHEN 'knowledge' THEN f.knowledge WHEN 'reasoning' THEN f.reasoning ELSE f.overall END AS level,
    CAST(NULL AS DOUBLE) AS dot
FROM dataset_samples AS d
LEFT JOIN difficulty_scores AS f ON f.run_id = $difficulty_run AND f.sample_id = d.sample_id
WHERE d.dataset_id = $dataset_id
ORDER BY d.position
