-- The samples of a selection in rank order, as they are written to its file.
-- Params: $dataset_id INTEGER, $ranking_id, $first, $n BIGINT
SELECT
    CAST(s.messages AS VARCHAR) AS messages,
    CAST(s.rejected AS VARCHAR) AS rejected,
    CAST(d.sample_id AS VARCHAR) AS sample_id,
    c.position,
    c.quadrant,
    c.rank - $first AS rank,
    c.difficulty,
    c.dot,
    c.score
FROM ranking_samples AS c
JOIN dataset_samples AS d ON d.dataset_id = $dataset_id AND d.position = c.position
JOIN samples AS s ON s.sample_id = d.sample_id
WHERE c.ranking_id = $ranking_id AND c.rank >= $first AND c.rank < $first + $n
ORDER BY c.rank
