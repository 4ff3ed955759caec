-- Samples in each quadrant, as a ranking has them, of a selection or of its whole dataset.
-- Params: $dataset_id INTEGER; $ranking_id BIGINT (null: the whole dataset), $first, $n BIGINT; $quadrant_ranking BIGINT
SELECT q.quadrant, count(*) AS n
FROM dataset_samples AS d
JOIN ranking_samples AS q ON q.ranking_id = $quadrant_ranking AND q.position = d.position
WHERE
    d.dataset_id = $dataset_id
    AND q.quadrant IS NOT NULL
    AND (
        $ranking_id IS NULL
        OR d.position IN (
            SELECT r.position
            FROM ranking_samples AS r
            WHERE r.ranking_id = $ranking_id AND r.rank >= $first AND r.rank < $first + $n
        )
    )
GROUP BY q.quadrant
