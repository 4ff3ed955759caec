-- The ranking that a walk (--diverse) goes through: it holds all samples, the walk only what it took.
-- Params: $ranking_id BIGINT
SELECT k.* FROM rankings AS k WHERE k.ranking_id = $ranking_id
