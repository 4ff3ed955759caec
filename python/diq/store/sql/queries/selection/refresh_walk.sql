-- The base of a walk is what it was, although scores of other samples changed.
-- Params: $ranking_id BIGINT
UPDATE rankings AS k
SET scores_digest = b.scores_digest, n_unscored = b.n_unscored, n_excluded = b.n_excluded
FROM rankings AS b
WHERE k.ranking_id = $ranking_id AND b.ranking_id = k.base_ranking
