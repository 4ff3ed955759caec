-- Add what a walk has taken of its base ranking.
-- Params: $ranking_id, $base_ranking BIGINT
-- Reads: incoming (rank: in the walk, base_rank), in rank order
INSERT INTO ranking_samples (ranking_id, rank, position, quadrant, difficulty, dot, score)
SELECT $ranking_id, i.rank, r.position, r.quadrant, r.difficulty, r.dot, r.score
FROM incoming AS i
JOIN ranking_samples AS r ON r.ranking_id = $base_ranking AND r.rank = i.base_rank
ORDER BY i.rank
