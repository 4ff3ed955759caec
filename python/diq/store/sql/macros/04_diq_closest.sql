-- diq_closest(dataset, run): the validation task that each sample of a dataset is closest to, by an influence run.
-- Named parameter: validation_sets (list of names that may be chosen; default: every set of the run).
-- Dots are taken in standard deviations above the mean of their task over the dataset, because raw dots grow with the
-- norm of a task's gradient; the largest wins, the set that was made first on ties. The scores of a run of method less
-- are cosines: there the largest wins as it is. A sample without a finite dot for every set is close to none and not
-- returned. The same rule as diq.influence.read_dots; standardised dots that agree to 9 digits count as a tie here.
-- diq_closest_of(of_dataset, of_run, of_sets) is the same with numbers in place of names and without a check of them.
CREATE OR REPLACE MACRO diq_closest_of(of_dataset, of_run, of_sets) AS TABLE
WITH chosen AS (
    SELECT v.validation_set_id, v.name, r.method = 'less' AS largest, count(*) OVER () AS n_sets
    FROM run_validation_sets AS rv
    JOIN runs AS r USING (run_id)
    JOIN validation_sets AS v USING (validation_set_id)
    WHERE rv.run_id = of_run AND (of_sets IS NULL OR list_contains(of_sets, v.name))
),
dots AS (
    SELECT x.sample_id, x.position, c.validation_set_id, c.largest, c.n_sets, i.dot
    FROM influence_scores AS i
    JOIN chosen AS c ON c.validation_set_id = i.validation_set_id
    JOIN dataset_samples AS x ON x.sample_id = i.sample_id
    WHERE i.run_id = of_run AND x.dataset_id = of_dataset AND isfinite(i.dot)
),
-- divided by the largest first: squares of huge dots would leave the range of a double
scales AS (
    SELECT d.validation_set_id, nullif(max(abs(d.dot)), 0) AS scale FROM dots AS d GROUP BY d.validation_set_id
),
spreads AS (
    SELECT
        d.validation_set_id,
        s.scale,
        avg(d.dot / s.scale) AS mean,
        nullif(stddev_pop(d.dot / s.scale), 0) AS spread
    FROM dots AS d
    JOIN scales AS s ON s.validation_set_id = d.validation_set_id
    GROUP BY d.validation_set_id, s.scale
),
nearness AS (
    SELECT
        d.sample_id,
        d.position,
        d.n_sets,
        d.validation_set_id,
        CASE
            WHEN d.largest THEN d.dot
            -- rounded, so that sets with the same dots tie whatever order their sums were taken in
            ELSE round(coalesce((d.dot / s.scale - s.mean) / s.spread, 0), 9)
        END AS near
    FROM dots AS d
    JOIN spreads AS s ON s.validation_set_id = d.validation_set_id
),
winners AS (
    SELECT
        n.sample_id,
        n.position,
        max({'near': n.near, 'first': -n.validation_set_id}) AS best
    FROM nearness AS n
    GROUP BY n.sample_id, n.position, n.n_sets
    HAVING count(*) = n.n_sets
)
SELECT w.sample_id, w.position, c.name AS validation_set, w.best.near AS nearness
FROM winners AS w
JOIN chosen AS c ON c.validation_set_id = -w.best.first;

CREATE OR REPLACE MACRO diq_closest(dataset, run, validation_sets := NULL) AS TABLE
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
)
SELECT c.sample_id, c.position, c.validation_set, c.nearness
FROM diq_closest_of(
    (SELECT t.id FROM the_dataset AS t), CAST(run AS BIGINT), CAST(validation_sets AS VARCHAR[])
) AS c
ORDER BY c.position;
