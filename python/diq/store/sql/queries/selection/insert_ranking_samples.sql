-- Add the whole order of a ranking.
-- Params: $ranking_id BIGINT
-- Reads: incoming (rank, position, quadrant, difficulty, dot, score, even_rank, odd_rank), in rank order
INSERT INTO ranking_samples (ranking_id, rank, position, quadrant, difficulty, dot, score, even_rank, odd_rank)
SELECT $ranking_id, rank, position, quadrant, difficulty, dot, score, even_rank, odd_rank FROM incoming
