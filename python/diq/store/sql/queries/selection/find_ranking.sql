-- The ranking of a configuration that nothing has replaced.
-- Params: $configuration VARCHAR
SELECT
    ranking_id, fingerprint, scores_digest, tau, median, n_scored, n_unscored, n_excluded, quadrant_counts,
    half_sizes, even_counts, odd_counts, n_ranked, created_at, base_ranking, depth, guard_runs
FROM rankings
WHERE configuration = $configuration AND replaced_by IS NULL
