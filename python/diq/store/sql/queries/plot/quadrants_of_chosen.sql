-- Samples of the selection in each quadrant of the ranking that is shown.
-- Reads:  ranked, chosen
SELECT r.quadrant, count(*) AS n
FROM chosen AS c
JOIN ranked AS r ON r.position = c.position
GROUP BY r.quadrant
ORDER BY r.quadrant
