-- What one validation set of a run gave the samples with ids up to one, of whatever dataset; ids as in sample_ids.
-- Params:  $run_id BIGINT, $validation_set_id INTEGER, $last_id UUID
-- Returns: high UBIGINT, low UBIGINT, dot DOUBLE, loss DOUBLE, answer_tokens DOUBLE
SELECT
    CAST(CAST(sample_id AS UHUGEINT) >> 64 AS UBIGINT) AS high,
    CAST(CAST(sample_id AS UHUGEINT) & CAST(18446744073709551615 AS UHUGEINT) AS UBIGINT) AS low,
    dot,
    loss,
    CAST(answer_tokens AS DOUBLE) AS answer_tokens
FROM influence_scores
WHERE run_id = $run_id AND validation_set_id = $validation_set_id AND sample_id <= $last_id
