-- How many dots of one validation set lie in each bin of a (symmetric logarithmic) axis.
-- Params: $dataset_id INTEGER, $run_id BIGINT, $validation_set_id INTEGER, $low, $step DOUBLE (of the scaled dot),
--         $bins INTEGER, $scale DOUBLE (null: linear)
SELECT
    least(
        $bins - 1,
        greatest(
            0,
            floor(
                (CASE WHEN $scale IS NULL THEN i.dot ELSE sign(i.dot) * ln(1 + abs(i.dot / $scale)) END - $low) / $step
            )
        )
    )::USMALLINT AS bin,
    count(*) AS n
FROM influence_scores AS i
SEMI JOIN dataset_samples AS s ON s.dataset_id = $dataset_id AND s.sample_id = i.sample_id
WHERE i.run_id = $run_id AND i.validation_set_id = $validation_set_id AND isfinite(i.dot)
GROUP BY bin
ORDER BY bin
