-- How many dots of one validation set lie in each bin of a (symmetric logarithmic) axis.
-- Params: $validation_set_id INTEGER, $low, $step DOUBLE (of the scaled dot), $bins INTEGER, $scale DOUBLE (null: linear)
-- Reads:  drawn_dots
SELECT
    least(
        $bins - 1,
        greatest(
            0,
            floor(
                (CASE WHEN $scale IS NULL THEN d.dot ELSE sign(d.dot) * ln(1 + abs(d.dot / $scale)) END - $low) / $step
            )
        )
    )::USMALLINT AS bin,
    count(*) AS n
FROM drawn_dots AS d
WHERE d.validation_set_id = $validation_set_id AND d.dot IS NOT NULL
GROUP BY bin
ORDER BY bin
