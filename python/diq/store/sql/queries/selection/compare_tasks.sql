-- Samples that are closest to each validation task, in some selections of a dataset and (selection null) in all of it.
-- Params: $dataset_id INTEGER, $run_id BIGINT, $validation_sets VARCHAR[] (null: all of the run), $selection_ids BIGINT[]
WITH closest AS MATERIALIZED (
    SELECT f.position, f.validation_set
    FROM diq_closest_of($dataset_id, $run_id, CAST($validation_sets AS VARCHAR[])) AS f
)
SELECT NULL AS selection_id, c.validation_set, count(*) AS n
FROM closest AS c
GROUP BY c.validation_set
UNION ALL
SELECT s.selection_id, c.validation_set, count(*)
FROM selections AS s
JOIN rankings AS k ON k.ranking_id = s.ranking_id AND k.dataset_id = $dataset_id
JOIN ranking_samples AS r ON r.ranking_id = s.ranking_id AND r.rank >= s."first" AND r.rank < s."first" + s.n
JOIN closest AS c ON c.position = r.position
WHERE list_contains(CAST($selection_ids AS BIGINT[]), s.selection_id)
GROUP BY s.selection_id, c.validation_set
