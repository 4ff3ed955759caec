-- Samples of each quadrant among the first of a ranking.
-- Params: $ranking_id, $n BIGINT
SELECT quadrant, count(*) AS n
FROM ranking_samples
WHERE ranking_id = $ranking_id AND rank < $n AND quadrant IS NOT NULL
GROUP BY quadrant
