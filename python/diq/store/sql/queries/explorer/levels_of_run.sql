-- Difficulty of every sample of a run, of whatever dataset; ids as in samples_of_dataset.
-- Params:  $difficulty_run BIGINT, $difficulty VARCHAR
-- Returns: high UBIGINT, low UBIGINT, level DOUBLE
SELECT
    CAST(CAST(sample_id AS UHUGEINT) >> 64 AS UBIGINT) AS high,
    CAST(CAST(sample_id AS UHUGEINT) & CAST(18446744073709551615 AS UHUGEINT) AS UBIGINT) AS low,
    CASE $difficulty WHEN 'knowledge' THEN knowledge WHEN 'reasoning' THEN reasoning ELSE overall END AS level
FROM difficulty_scores
WHERE run_id = $difficulty_run
