-- Rankings of a dataset, the best one to measure others by first: one that holds every scored sample, one of those that
-- are asked for, one with quadrants, the latest.
-- Params: $dataset_id INTEGER, $ranking_ids BIGINT[]
SELECT
    k.ranking_id,
    k.influence_run,
    k.difficulty_run,
    k.quadrant_counts IS NOT NULL AS has_quadrants,
    k.n_ranked,
    k.n_scored,
    CAST(json_keys(k.config ->> '$.validation_weights') AS VARCHAR[]) AS validation_sets
FROM rankings AS k
WHERE k.dataset_id = $dataset_id AND k.replaced_by IS NULL AND k.configuration IS NOT NULL AND k.base_ranking IS NULL
ORDER BY
    k.n_ranked IS NULL DESC,
    list_contains(CAST($ranking_ids AS BIGINT[]), k.ranking_id) DESC,
    k.quadrant_counts IS NOT NULL DESC,
    k.ranking_id DESC
