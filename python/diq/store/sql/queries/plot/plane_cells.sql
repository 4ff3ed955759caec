-- Samples, and those of them that a selection took, in each cell of the plane.
-- Params: $level_low, $level_step DOUBLE, $level_bins INTEGER, $dot_low, $dot_step DOUBLE (of the scaled dot),
--         $dot_bins INTEGER, $scale DOUBLE (of the symmetric logarithm; null: linear)
-- Reads:  ranked, chosen
WITH binned AS (
    SELECT
        r.position,
        least($level_bins - 1, greatest(0, floor((r.difficulty - $level_low) / $level_step)))::USMALLINT AS x,
        least(
            $dot_bins - 1,
            greatest(
                0,
                floor(
                    (
                        CASE WHEN $scale IS NULL THEN r.dot ELSE sign(r.dot) * ln(1 + abs(r.dot / $scale)) END
                        - $dot_low
                    ) / $dot_step
                )
            )
        )::USMALLINT AS y
    FROM ranked AS r
)
SELECT
    (b.x * $dot_bins + b.y)::USMALLINT AS cell,
    count(*) AS n,
    count(c.position) AS taken
FROM binned AS b
LEFT JOIN chosen AS c ON c.position = b.position
GROUP BY cell
ORDER BY cell
