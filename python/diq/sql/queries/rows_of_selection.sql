-- The samples of a selection in rank order, as they are written to its file.
-- Params: $dataset_id INTEGER
-- Reads: chosen (rank, position, quadrant, difficulty, dot)
SELECT
    CAST(s.messages AS VARCHAR) AS messages,
    CAST(s.rejected AS VARCHAR) AS rejected,
    CAST(d.sample_id AS VARCHAR) AS sample_id,
    c.position,
    c.quadrant,
    c.rank,
    c.difficulty,
    c.dot
FROM chosen AS c
JOIN dataset_samples AS d ON d.dataset_id = $dataset_id AND d.position = c.position
JOIN samples AS s ON s.sample_id = d.sample_id
ORDER BY c.rank
