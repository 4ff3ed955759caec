-- Position, source and id of every sample of a dataset. The id is two numbers, for joins outside of SQL.
-- Params:  $dataset_id INTEGER
-- Returns: position BIGINT, source_id INTEGER, high UBIGINT, low UBIGINT
SELECT
    position,
    source_id,
    CAST(CAST(sample_id AS UHUGEINT) >> 64 AS UBIGINT) AS high,
    CAST(CAST(sample_id AS UHUGEINT) & CAST(18446744073709551615 AS UHUGEINT) AS UBIGINT) AS low
FROM dataset_samples
WHERE dataset_id = $dataset_id
