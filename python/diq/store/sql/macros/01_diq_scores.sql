-- diq_scores(dataset, model): one row per sample of a dataset with its difficulty and its influence.
-- Named parameters: run (an influence run, needed when the model has several on this dataset; one of method less, or the
-- predictions of method rater, are taken only so, or when there is no other), difficulty_run
-- (likewise), validation_weights (MAP of validation set name to weight; default: every set of the run, weighted by its
-- number of samples, which is the mean over all validation samples of Eq. 3).
-- dot is null unless the sample has a finite dot for every set that is asked for. Over several sets it is their weighted
-- mean; of a run of method less, the largest (max over tasks), so there the weights may only choose sets.
-- standard_error is that of dot: the sets are pooled fold by fold in the same way, and the spread of the K pooled dots
-- gives it; null where folds are missing, fewer than 2, or not as many for every set.
CREATE OR REPLACE MACRO diq_scores(
    dataset, model, run := NULL, difficulty_run := NULL, validation_weights := NULL
) AS TABLE
WITH dataset_count AS (
    SELECT count(*) AS n, any_value(d.dataset_id) AS found FROM datasets AS d WHERE d.name = dataset
),
the_dataset AS (
    SELECT
        CASE
            WHEN c.n = 0 THEN error('no dataset named `' || CAST(dataset AS VARCHAR) || '` in this store')
            ELSE c.found
        END AS id
    FROM dataset_count AS c
),
runs_here AS (
    SELECT
        r.run_id,
        r.kind,
        r.method,
        rd.state,
        rd.state = 'open' AND rd.certificate IS NOT NULL AS partial,
        m.name AS model_name
    FROM runs AS r
    JOIN run_datasets AS rd ON rd.run_id = r.run_id
    JOIN the_dataset AS t ON t.id = rd.dataset_id
    LEFT JOIN models AS m ON m.model_id = r.model_id
),
-- cosines of less and predictions of a rater are no dots: they are meant only by number, or when nothing else is there
other_runs AS (
    SELECT count(*) AS n
    FROM runs_here AS r
    WHERE r.kind = 'influence' AND r.model_name = model AND r.method NOT IN ('less', 'rater')
),
influence_count AS (
    SELECT
        count(*) AS n,
        any_value(r.run_id) AS found,
        bool_or(r.method = 'less') AS largest,
        string_agg(CAST(r.run_id AS VARCHAR) || ' (' || r.method || ')', ', ' ORDER BY r.run_id) AS listed
    FROM runs_here AS r
    CROSS JOIN other_runs AS o
    WHERE
        r.kind = 'influence'
        AND r.state = 'sealed'
        AND r.model_name = model
        AND CASE
            WHEN run IS NULL THEN r.method NOT IN ('less', 'rater') OR o.n = 0
            ELSE r.run_id = CAST(run AS BIGINT)
        END
),
-- what a part of the dots decides, only `diq select` can tell
partial_count AS (
    SELECT count(*) AS n, any_value(r.run_id) AS found
    FROM runs_here AS r
    WHERE
        r.kind = 'influence'
        AND r.partial
        AND r.model_name = model
        AND (run IS NULL OR r.run_id = CAST(run AS BIGINT))
),
influence_run AS (
    SELECT
        CASE
            WHEN c.n = 0 AND p.n > 0 THEN error(
                'influence run ' || CAST(p.found AS VARCHAR) || ' of dataset `' || CAST(dataset AS VARCHAR)
                || '` was scored in part (--for-ratio): diq select knows what that decides; '
                || 'diq score influence without it scores the rest'
            )
            WHEN c.n = 0 THEN error(
                'no finished influence run of model `' || CAST(model AS VARCHAR) || '` on dataset `'
                || CAST(dataset AS VARCHAR) || '`; diq score influence makes one'
            )
            WHEN c.n > 1 THEN error('several influence runs: ' || c.listed || '; name one with run := N')
            ELSE c.found
        END AS id,
        c.largest
    FROM influence_count AS c
    CROSS JOIN partial_count AS p
),
difficulty_count AS (
    SELECT
        count(*) AS n,
        any_value(r.run_id) AS found,
        string_agg(CAST(r.run_id AS VARCHAR) || ' (' || r.method || ')', ', ' ORDER BY r.run_id) AS listed
    FROM runs_here AS r
    WHERE
        r.kind = 'difficulty'
        AND r.state = 'sealed'
        AND (difficulty_run IS NULL OR r.run_id = CAST(difficulty_run AS BIGINT))
        -- pass rates are taken when they are named, or when there is nothing else
        AND (
            difficulty_run IS NOT NULL
            OR r.method <> 'pass_rate'
            OR NOT EXISTS (
                SELECT 1
                FROM runs_here AS o
                WHERE o.kind = 'difficulty' AND o.state = 'sealed' AND o.method <> 'pass_rate'
            )
        )
),
difficulty_choice AS (
    SELECT
        CASE
            WHEN c.n > 1 THEN error(
                'several difficulty runs: ' || c.listed || '; name one with difficulty_run := N'
            )
            ELSE c.found
        END AS id
    FROM difficulty_count AS c
),
run_sets AS (
    SELECT v.validation_set_id, v.name, v.n_samples
    FROM run_validation_sets AS rv
    JOIN influence_run AS i ON i.id = rv.run_id
    JOIN validation_sets AS v ON v.validation_set_id = rv.validation_set_id
),
-- a set of unknown size cannot be weighted by it, so then every set counts alike
sizes AS (
    SELECT bool_or(s.n_samples IS NULL) AS unsized FROM run_sets AS s
),
asked AS (
    SELECT unnest(map_entries(CAST(validation_weights AS MAP(VARCHAR, DOUBLE))), recursive := true)
),
unknown_sets AS (
    SELECT string_agg('`' || a."key" || '`', ', ' ORDER BY a."key") AS listed
    FROM asked AS a
    WHERE a."key" NOT IN (SELECT s.name FROM run_sets AS s)
),
weights AS (
    SELECT
        s.validation_set_id,
        CAST(
            CASE
                WHEN u.listed IS NOT NULL THEN error('the influence run has no validation set named ' || u.listed)
                WHEN validation_weights IS NOT NULL THEN a."value"
                WHEN z.unsized THEN 1
                ELSE s.n_samples
            END AS DOUBLE
        ) AS weight
    FROM run_sets AS s
    CROSS JOIN sizes AS z
    CROSS JOIN unknown_sets AS u
    LEFT JOIN asked AS a ON a."key" = s.name
    WHERE validation_weights IS NULL OR a."key" IS NOT NULL OR u.listed IS NOT NULL
),
totals AS (
    SELECT
        count(*) AS n_sets,
        sum(w.weight ORDER BY w.validation_set_id) AS total,
        CASE
            WHEN NOT any_value(r.largest) THEN FALSE
            WHEN validation_weights IS NOT NULL AND min(w.weight) < max(w.weight) THEN error(
                'a run of method less takes the largest of its tasks, which no weight changes; give equal weights'
            )
            ELSE TRUE
        END AS largest
    FROM weights AS w
    CROSS JOIN influence_run AS r
),
pooled AS (
    SELECT
        i.sample_id,
        count(i.dot) FILTER (WHERE isfinite(i.dot)) AS n_finite,
        -- in the order of the sets, so that every client and thread count adds up to the same bits
        sum(i.dot * w.weight ORDER BY i.validation_set_id) AS weighted,
        max(i.dot) AS largest,
        max(i.gradient_norm) AS gradient_norm,
        -- whoever does not ask for standard errors does not pay for these lists
        list(i.fold_dots ORDER BY i.validation_set_id) AS folds,
        list(w.weight ORDER BY i.validation_set_id) AS fold_weights,
        -- a missing list, a null or a NaN in one counts as no fold
        min(CASE WHEN isfinite(list_sum(i.fold_dots)) THEN list_count(i.fold_dots) ELSE 0 END) AS fewest_folds,
        max(len(i.fold_dots)) AS most_folds,
        any_value(i.loss) AS loss,
        any_value(i.answer_tokens) AS answer_tokens
    FROM influence_scores AS i
    JOIN influence_run AS r ON r.id = i.run_id
    JOIN weights AS w ON w.validation_set_id = i.validation_set_id
    GROUP BY i.sample_id
),
pooled_folds AS (
    SELECT
        p.* EXCLUDE (folds, fold_weights, fewest_folds, most_folds),
        CASE
            WHEN p.n_finite < t.n_sets OR p.fewest_folds < 2 OR p.fewest_folds < p.most_folds THEN NULL
            WHEN t.largest THEN [
                list_max([p.folds[s][k] for s in range(1, t.n_sets + 1)]) for k in range(1, p.most_folds + 1)
            ]
            ELSE [
                list_sum([p.folds[s][k] * p.fold_weights[s] for s in range(1, t.n_sets + 1)]) / t.total
                for k in range(1, p.most_folds + 1)
            ]
        END AS folds
    FROM pooled AS p
    CROSS JOIN totals AS t
),
levels AS (
    SELECT f.sample_id, f.knowledge, f.reasoning, f.overall
    FROM difficulty_scores AS f
    JOIN difficulty_choice AS c ON c.id = f.run_id
)
SELECT
    s.sample_id,
    s.position,
    l.knowledge,
    l.reasoning,
    l.overall,
    CASE
        WHEN d.n_finite < t.n_sets THEN NULL
        WHEN t.largest THEN d.largest
        ELSE d.weighted / t.total
    END AS dot,
    d.loss,
    d.answer_tokens,
    d.gradient_norm,
    -- the mean of the folds, then their distances from it
    sqrt(
        list_sum([(f - list_sum(d.folds) / len(d.folds)) ** 2 for f in d.folds]) / (len(d.folds) - 1) / len(d.folds)
    ) AS standard_error
FROM dataset_samples AS s
JOIN the_dataset AS td ON td.id = s.dataset_id
CROSS JOIN totals AS t
LEFT JOIN levels AS l ON l.sample_id = s.sample_id
LEFT JOIN pooled_folds AS d ON d.sample_id = s.sample_id
ORDER BY s.position;
