-- The rows of a stored ranking in its order, as far as its fingerprint is made of them.
-- Params:  $ranking_id BIGINT
-- Returns: position, difficulty, dot, score, even_rank, odd_rank
SELECT position, difficulty, dot, score, even_rank, odd_rank
FROM ranking_samples
WHERE ranking_id = $ranking_id
ORDER BY rank
