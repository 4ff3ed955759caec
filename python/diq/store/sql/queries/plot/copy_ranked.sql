-- The rows of a ranking that is not stored, for this connection alone.
-- Reads:  incoming (rank, position, quadrant, difficulty, dot, even_rank, odd_rank)
CREATE OR REPLACE TEMP TABLE ranked_copy AS
SELECT
    i.rank::UINTEGER AS rank,
    i.position,
    i.quadrant::VARCHAR AS quadrant,
    i.difficulty,
    i.dot,
    i.even_rank::UINTEGER AS even_rank,
    i.odd_rank::UINTEGER AS odd_rank
FROM incoming AS i
