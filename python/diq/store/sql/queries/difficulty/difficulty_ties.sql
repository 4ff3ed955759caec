-- How many samples of a dataset share their difficulty: ties decide the sizes of the quadrants.
-- Params:  $run_id BIGINT, $dataset_id INTEGER
-- Returns: dimension VARCHAR, scale VARCHAR ('value' or 'level'), distinct_values BIGINT, on_the_median_value BIGINT
--          (samples exactly on the median, the default threshold), on_the_commonest_value BIGINT (samples of the most
--          frequent value); a dimension without a value has no row
WITH scored AS (
    SELECT f.*
    FROM difficulty_scores AS f
    JOIN dataset_samples AS d ON d.sample_id = f.sample_id AND d.dataset_id = $dataset_id
    WHERE f.run_id = $run_id
),
every_value AS (
    SELECT 'knowledge' AS dimension, 'value' AS scale, knowledge AS value FROM scored
    UNION ALL
    SELECT 'reasoning', 'value', reasoning FROM scored
    UNION ALL
    SELECT 'overall', 'value', overall FROM scored
    UNION ALL
    SELECT 'knowledge', 'level', knowledge_level FROM scored
    UNION ALL
    SELECT 'reasoning', 'level', reasoning_level FROM scored
    UNION ALL
    SELECT 'overall', 'level', overall_level FROM scored
),
medians AS (
    SELECT dimension, scale, quantile_cont(value, 0.5) AS median
    FROM every_value
    WHERE isfinite(value)
    GROUP BY dimension, scale
),
counts AS (
    SELECT dimension, scale, value, count(*) AS n
    FROM every_value
    WHERE isfinite(value)
    GROUP BY dimension, scale, value
)
SELECT
    c.dimension,
    c.scale,
    count(*) AS distinct_values,
    CAST(coalesce(sum(c.n) FILTER (WHERE c.value = m.median), 0) AS BIGINT) AS on_the_median_value,
    max(c.n) AS on_the_commonest_value
FROM counts AS c
JOIN medians AS m ON m.dimension = c.dimension AND m.scale = c.scale
GROUP BY c.dimension, c.scale
ORDER BY c.scale DESC, c.dimension
