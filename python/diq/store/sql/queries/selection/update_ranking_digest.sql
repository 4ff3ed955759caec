-- Scores or samples changed, but none that the ranking was made from.
-- Params: $ranking_id BIGINT, $scores_digest VARCHAR, $n_unscored, $n_excluded BIGINT
UPDATE rankings
SET scores_digest = $scores_digest, n_unscored = $n_unscored, n_excluded = $n_excluded
WHERE ranking_id = $ranking_id
