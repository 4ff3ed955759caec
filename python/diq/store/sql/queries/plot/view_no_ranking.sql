-- An empty ranking, where scores for one are missing.
CREATE OR REPLACE TEMP VIEW ranked AS
SELECT r.rank, r.position, r.quadrant, r.difficulty, r.dot, r.even_rank, r.odd_rank
FROM ranking_samples AS r
WHERE FALSE
