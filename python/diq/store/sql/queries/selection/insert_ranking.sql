-- Record a ranking; insert_ranking_samples adds its rows.
INSERT INTO rankings (
    ranking_id, dataset_id, strategy, influence_run, difficulty_run, score_run, guard_runs, fingerprint, config,
    tau, median, n_scored, n_unscored, n_excluded, quadrant_counts, created_at,
    configuration, scores_digest, half_sizes, even_counts, odd_counts, n_ranked
)
SELECT
    nextval('ranking_ids'), $dataset_id, $strategy, $influence_run, $difficulty_run, $score_run, $guard_runs,
    $fingerprint, $config, $tau, $median, $n_scored, $n_unscored, $n_excluded, $quadrant_counts, $created_at,
    $configuration, $scores_digest, $half_sizes, $even_counts, $odd_counts, $n_ranked
RETURNING ranking_id
