-- Samples that two of some selections share, of whatever datasets; pairs that share none have no row.
-- Params: $selection_ids BIGINT[]
WITH chosen AS (
    SELECT s.selection_id, s.sample_id
    FROM selection_samples AS s
    WHERE list_contains(CAST($selection_ids AS BIGINT[]), s.selection_id)
)
SELECT a.selection_id AS a, b.selection_id AS b, count(*) AS shared
FROM chosen AS a
JOIN chosen AS b ON b.sample_id = a.sample_id AND b.selection_id > a.selection_id
GROUP BY a.selection_id, b.selection_id
