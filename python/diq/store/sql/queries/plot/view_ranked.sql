-- The rows of a stored ranking, for this connection alone.
CREATE OR REPLACE TEMP VIEW ranked AS
SELECT r.rank, r.position, r.quadrant, r.difficulty, r.dot, r.even_rank, r.odd_rank
FROM ranking_samples AS r
WHERE r.ranking_id = getvariable('drawn_ranking')
