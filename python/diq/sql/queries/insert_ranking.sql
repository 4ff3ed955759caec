-- Record a ranking unless the same order of the same configuration is known.
INSERT INTO rankings (
    ranking_id, dataset_id, strategy, influence_run, difficulty_run, fingerprint, config,
    tau, median, n_scored, n_unscored, quadrant_counts, created_at
)
SELECT
    nextval('ranking_ids'), $dataset_id, $strategy, $influence_run, $difficulty_run, $fingerprint, $config,
    $tau, $median, $n_scored, $n_unscored, $quadrant_counts, $created_at
WHERE NOT EXISTS (SELECT 1 FROM rankings WHERE fingerprint = $fingerprint)
