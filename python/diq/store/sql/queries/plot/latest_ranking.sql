-- The latest ranking with quadrants of a dataset that is in use and made from these runs, without any modifier.
-- Params: $dataset_id INTEGER, $influence_run BIGINT, $difficulty_run BIGINT, $difficulty VARCHAR
SELECT
    k.*,
    k.scores_digest = diq_digest(k.dataset_id, k.influence_run, k.difficulty_run, k.score_run) AS is_current
FROM rankings AS k
WHERE
    k.dataset_id = $dataset_id
    AND k.influence_run = $influence_run
    AND k.difficulty_run = $difficulty_run
    AND k.config ->> '$.difficulty' = $difficulty
    AND k.config ->> '$.influence' = 'dot'
    AND k.config ->> '$.validation_weights' IS NULL
    AND k.config ->> '$.percentile' = '0.5'
    AND k.quadrant_counts IS NOT NULL
    AND k.guard_runs IS NULL
    AND k.config ->> '$.balance' IS NULL
    AND k.replaced_by IS NULL
ORDER BY k.ranking_id DESC
LIMIT 1
