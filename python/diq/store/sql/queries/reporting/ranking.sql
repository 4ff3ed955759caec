-- The order of Algorithm 1.
-- Params: $dataset, $model, $difficulty VARCHAR, $percentile DOUBLE, $threshold DOUBLE (null: by the percentile),
--         $influence VARCHAR, $run, $difficulty_run BIGINT (null: the only one)
SELECT *
FROM diq_ranking(
    $dataset,
    $model,
    difficulty := $difficulty,
    percentile := $percentile,
    threshold := $threshold,
    run := $run,
    difficulty_run := $difficulty_run,
    influence := $influence
)
