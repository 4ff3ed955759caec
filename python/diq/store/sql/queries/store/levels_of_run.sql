-- Difficulty of the samples of a run with ids up to one, of whatever dataset; ids as in sample_ids.
-- Params:  $difficulty_run BIGINT, $last_id UUID
-- Returns: high UBIGINT, low UBIGINT, knowledge DOUBLE, reasoning DOUBLE, overall DOUBLE
SELECT
    CAST(CAST(sample_id AS UHUGEINT) >> 64 AS UBIGINT) AS high,
    CAST(CAST(sample_id AS UHUGEINT) & CAST(18446744073709551615 AS UHUGEINT) AS UBIGINT) AS low,
    knowledge,
    reasoning,
    overall
FROM difficulty_scores
WHERE run_id = $difficulty_run AND sample_id <= $last_id
