-- The samples of a selection, best first.
-- Params: $selection_id BIGINT
SELECT s.rank, s.sample_id, s.position, s.quadrant, s.difficulty, s.dot, s.score
FROM selection_samples AS s
WHERE s.selection_id = $selection_id
ORDER BY s.rank
