-- Difficulty and dot of every sample of a dataset in its order, for the ranking in Rust.
-- Params: $dataset, $model, $difficulty VARCHAR, $run, $difficulty_run BIGINT, $names VARCHAR[], $weights DOUBLE[],
-- $norms BOOLEAN (whether to return the gradient norms too)
SELECT
    position,
    CASE $difficulty WHEN 'knowledge' THEN knowledge WHEN 'reasoning' THEN reasoning ELSE overall END AS level,
    dot,
    CASE WHEN $norms THEN gradient_norm END AS gradient_norm
FROM diq_scores(
    $dataset,
    $model,
    run := $run,
    difficulty_run := $difficulty_run,
    validation_weights := CASE WHEN len($names) > 0 THEN MAP(CAST($names AS VARCHAR[]), CAST($weights AS DOUBLE[])) END
)
ORDER BY position
