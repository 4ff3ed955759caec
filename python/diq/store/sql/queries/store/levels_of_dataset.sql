-- Difficulty of the samples of a dataset, in no order: the position says which is which.
-- Params: $dataset_id INTEGER, $difficulty VARCHAR, $difficulty_run BIGINT
SELECT
    d.position,
    CASE $difficulty WHEN 'knowledge' THEN f.knowledge WHEN 'reasoning' THEN f.reasoning ELSE f.overall END AS level
FROM difficulty_scores AS f
JOIN dataset_samples AS d ON d.sample_id = f.sample_id AND d.dataset_id = $dataset_id
WHERE f.run_id = $difficulty_run
