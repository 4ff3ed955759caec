-- Position, source and id of the samples of a dataset with ids up to one: a share of the ids is a share of the samples,
-- since ids are hashes. The id is two numbers, for joins outside of SQL.
-- Params:  $dataset_id INTEGER, $last_id UUID
-- Returns: position BIGINT, source_id INTEGER, high UBIGINT, low UBIGINT
SELECT
    position,
    source_id,
    CAST(CAST(sample_id AS UHUGEINT) >> 64 AS UBIGINT) AS high,
    CAST(CAST(sample_id AS UHUGEINT) & CAST(18446744073709551615 AS UHUGEINT) AS UBIGINT) AS low
FROM dataset_samples
WHERE dataset_id = $dataset_id AND sample_id <= $last_id
