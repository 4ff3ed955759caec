-- Record the samples of a selection.
-- Params: $selection_id BIGINT, $dataset_id INTEGER
-- Reads: incoming (rank, position, quadrant, difficulty, dot)
INSERT INTO selection_samples (selection_id, rank, sample_id, position, quadrant, difficulty, dot)
SELECT $selection_id, i.rank, d.sample_id, i.position, i.quadrant, i.difficulty, i.dot
FROM incoming AS i
JOIN dataset_samples AS d ON d.dataset_id = $dataset_id AND d.position = i.position
ORDER BY i.rank
