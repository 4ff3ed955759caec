-- Record a ranking that is walked from another (--diverse); nothing of it is taken yet.
INSERT INTO rankings (
    ranking_id, dataset_id, strategy, influence_run, difficulty_run, score_run, guard_runs, fingerprint, config,
    tau, median, n_scored, n_unscored, n_excluded, quadrant_counts, created_at,
    configuration, scores_digest, base_ranking, depth
)
SELECT
    nextval('ranking_ids'), b.dataset_id, b.strategy, b.influence_run, b.difficulty_run, b.score_run, $guard_runs,
    $fingerprint, $config, b.tau, b.median, b.n_scored, b.n_unscored, b.n_excluded, b.quadrant_counts, $created_at,
    $configuration, b.scores_digest, b.ranking_id, 0
FROM rankings AS b
WHERE b.ranking_id = $base_ranking
RETURNING ranking_id
