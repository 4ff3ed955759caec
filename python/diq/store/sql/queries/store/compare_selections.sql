-- Facts of some selections for `diq compare`, and how many of their samples the store still finds.
-- Params: $selection_ids BIGINT[]
SELECT
    s.selection_id,
    s.name,
    k.dataset_id,
    d.name AS dataset,
    s.strategy,
    s.ratio,
    s.n,
    s."first",
    s.ranking_id,
    k.replaced_by IS NOT NULL AS replaced,
    k.influence_run,
    k.difficulty_run,
    k.quadrant_counts IS NOT NULL AS has_quadrants,
    (SELECT count(*) FROM selection_samples AS x WHERE x.selection_id = s.selection_id) AS n_found
FROM selections AS s
JOIN rankings AS k ON k.ranking_id = s.ranking_id
JOIN datasets AS d ON d.dataset_id = k.dataset_id
WHERE list_contains(CAST($selection_ids AS BIGINT[]), s.selection_id)
