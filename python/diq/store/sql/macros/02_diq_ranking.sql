-- diq_ranking(dataset, model, difficulty := 'overall', percentile := 0.5): the order of Algorithm 1.
-- Named parameters: threshold (an absolute difficulty threshold in place of the percentile), run, difficulty_run and
-- validation_weights as in diq_scores; influence ('dot', or 'cosine': the dot over the norm of the sample's gradient,
-- which orders like the cosine with the validation gradient and needs the norms of `diq score influence --norms`). Column
-- dot holds whichever was asked for. A sample without a finite dot and difficulty is in no quadrant and not returned.
-- Order: quadrant, dot descending, difficulty descending, position; the same as diq._core.rank.
CREATE OR REPLACE MACRO diq_ranking(
    dataset,
    model,
    difficulty := 'overall',
    percentile := 0.5,
    threshold := NULL,
    run := NULL,
    difficulty_run := NULL,
    validation_weights := NULL,
    influence := 'dot'
) AS TABLE
WITH scored AS (
    SELECT
        c.sample_id,
        c.position,
        CASE CAST(difficulty AS VARCHAR)
            WHEN 'knowledge' THEN c.knowledge
            WHEN 'reasoning' THEN c.reasoning
            WHEN 'overall' THEN c.overall
            ELSE error('difficulty is knowledge, reasoning or overall')
        END AS level,
        CASE CAST(influence AS VARCHAR)
            WHEN 'dot' THEN c.dot
            WHEN 'cosine' THEN c.dot / CASE
                WHEN isfinite(c.dot) AND c.gradient_norm IS NULL THEN error(
                    'influence cosine needs the gradient norm of every sample; diq score influence --norms makes them'
                )
                ELSE c.gradient_norm
            END
            ELSE error('influence is dot or cosine')
        END AS value
    FROM diq_scores(
        dataset, model, run := run, difficulty_run := difficulty_run, validation_weights := validation_weights
    ) AS c
),
finite AS (
    SELECT * FROM scored AS f WHERE isfinite(f.level) AND isfinite(f.value)
),
thresholds AS (
    SELECT
        coalesce(CAST(threshold AS DOUBLE), quantile_cont(f.level, CAST(percentile AS DOUBLE))) AS tau,
        quantile_cont(f.value, 0.5::DOUBLE) AS middle
    FROM finite AS f
),
placed AS (
    SELECT
        f.sample_id,
        f.position,
        f.level,
        f.value,
        CASE
            WHEN f.level >= t.tau AND f.value >= t.middle THEN 'Q1'
            WHEN f.value >= t.middle THEN 'Q2'
            WHEN f.level >= t.tau THEN 'Q3'
            ELSE 'Q4'
        END AS place
    FROM finite AS f
    CROSS JOIN thresholds AS t
)
SELECT
    p.sample_id,
    p.position,
    p.place AS quadrant,
    row_number() OVER (ORDER BY p.place, p.value DESC, p.level DESC, p.position) - 1 AS rank,
    p.level AS difficulty,
    p.value AS dot
FROM placed AS p
ORDER BY rank;
