-- The next rows of a ranking that is walked through, in rank order.
-- Params: $dataset_id INTEGER, $ranking_id, $first, $n BIGINT
SELECT r.rank, r.position, CAST(d.sample_id AS VARCHAR) AS sample_id
FROM ranking_samples AS r
JOIN dataset_samples AS d ON d.dataset_id = $dataset_id AND d.position = r.position
WHERE r.ranking_id = $ranking_id AND r.rank >= $first AND r.rank < $first + $n
ORDER BY r.rank
