-- Samples of each dataset at each level of each dimension, by quadrant (null: none of this dataset, or not ranked).
-- Params: $dataset_id INTEGER, $run_id BIGINT (of difficulty)
-- Reads:  ranked
WITH found AS (
    SELECT
        r.quadrant,
        CASE WHEN isfinite(f.knowledge) THEN round(f.knowledge)::SMALLINT END AS knowledge,
        CASE WHEN isfinite(f.reasoning) THEN round(f.reasoning)::SMALLINT END AS reasoning,
        CASE WHEN isfinite(f.overall) THEN round(f.overall)::SMALLINT END AS overall
    FROM difficulty_scores AS f
    JOIN dataset_samples AS s ON s.sample_id = f.sample_id AND s.dataset_id = $dataset_id
    LEFT JOIN ranked AS r ON r.position = s.position
    WHERE f.run_id = $run_id
)
SELECT
    CASE
        WHEN grouping(f.knowledge) = 0 THEN 'knowledge'
        WHEN grouping(f.reasoning) = 0 THEN 'reasoning'
        ELSE 'overall'
    END AS dimension,
    coalesce(f.knowledge, f.reasoning, f.overall) AS level,
    f.quadrant,
    count(*) AS n
FROM found AS f
GROUP BY GROUPING SETS ((f.quadrant, f.knowledge), (f.quadrant, f.reasoning), (f.quadrant, f.overall))
HAVING level IS NOT NULL
ORDER BY dimension, level, f.quadrant
