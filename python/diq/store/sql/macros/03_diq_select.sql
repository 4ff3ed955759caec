-- diq_select(dataset, model, ratio, difficulty := 'overall', percentile := 0.5): the first floor(N * ratio) samples of
-- diq_ranking, N being the samples with both scores. The ratio counts as the decimal that was typed: 0.57 of 100 is 57.
CREATE OR REPLACE MACRO diq_select(
    dataset,
    model,
    ratio,
    difficulty := 'overall',
    percentile := 0.5,
    threshold := NULL,
    run := NULL,
    difficulty_run := NULL,
    validation_weights := NULL,
    influence := 'dot'
) AS TABLE
WITH ranked AS (
    SELECT
        r.*,
        count(*) OVER () AS n_scored
    FROM diq_ranking(
        dataset,
        model,
        difficulty := difficulty,
        percentile := percentile,
        threshold := threshold,
        run := run,
        difficulty_run := difficulty_run,
        validation_weights := validation_weights,
        influence := influence
    ) AS r
),
wanted AS (
    SELECT
        CASE
            WHEN CAST(ratio AS DOUBLE) > 0 AND CAST(ratio AS DOUBLE) <= 1
            THEN CAST(CAST(ratio AS VARCHAR) AS DECIMAL(20, 18))
            ELSE error('the ratio ' || CAST(ratio AS VARCHAR) || ' is outside (0, 1]')
        END AS share
)
SELECT r.sample_id, r.position, r.quadrant, r.rank, r.difficulty, r.dot
FROM ranked AS r
CROSS JOIN wanted AS w
WHERE r.rank < floor(CAST(r.n_scored AS DECIMAL(18, 0)) * w.share)
ORDER BY r.rank;
