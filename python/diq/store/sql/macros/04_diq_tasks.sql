-- diq_tasks(selection): the share of each validation task in a selection beside its share in the dataset, the task of a
-- sample being the one that it is closest to (diq_closest). selection is a number, or a name, of which the latest counts.
-- Named parameter: run, an influence run to measure with: needed for selections of strategies without dots (random,
-- perplexity and so on). Default: the run and the validation sets of the selection's own ranking.
-- Shares are of the samples that are close to any task; lift above 1 means that the selection prefers the task.
-- A macro and no view, because whole runs are read: four tasks take a second or two a million samples.
CREATE OR REPLACE MACRO diq_tasks(selection, run := NULL) AS TABLE
WITH asked AS (
    SELECT
        CAST(selection AS VARCHAR) AS name,
        CASE
            WHEN regexp_full_match(CAST(selection AS VARCHAR), '[0-9]+')
            THEN TRY_CAST(CAST(selection AS VARCHAR) AS BIGINT)
        END AS number
),
candidates AS (
    SELECT
        s.selection_id,
        s.ranking_id,
        s."first",
        s.n,
        k.dataset_id,
        coalesce(CAST(run AS BIGINT), k.influence_run) AS run_id,
        CASE WHEN run IS NULL THEN CAST(json_keys(k.config ->> '$.validation_weights') AS VARCHAR[]) END AS sets
    FROM selections AS s
    JOIN rankings AS k ON k.ranking_id = s.ranking_id
    CROSS JOIN asked AS a
    WHERE s.selection_id = a.number OR s.name = a.name
    ORDER BY s.selection_id = a.number DESC NULLS LAST, s.created_at DESC, s.selection_id DESC
    LIMIT 1
),
candidate_count AS (
    SELECT
        count(*) AS n,
        any_value(c.selection_id) AS selection_id,
        any_value(c.run_id) AS run_id,
        any_value(c.dataset_id) AS dataset_id,
        any_value(c.sets) AS sets
    FROM candidates AS c
),
measured_by AS (
    SELECT
        CASE
            WHEN c.n = 0 THEN error('no selection `' || a.name || '` in this store')
            WHEN c.run_id IS NULL THEN error(
                'the strategy of selection `' || a.name || '` uses no dots; name an influence run with run := N'
            )
            ELSE c.run_id
        END AS run_id,
        c.dataset_id,
        c.sets
    FROM candidate_count AS c
    CROSS JOIN asked AS a
),
taken AS (
    SELECT r.position
    FROM ranking_samples AS r
    JOIN candidates AS c ON c.ranking_id = r.ranking_id AND r.rank >= c."first" AND r.rank < c."first" + c.n
),
counted AS (
    SELECT f.validation_set, count(t.position) AS n, count(*) AS n_dataset
    FROM diq_closest_of(
        (SELECT m.dataset_id FROM measured_by AS m),
        (SELECT m.run_id FROM measured_by AS m),
        (SELECT m.sets FROM measured_by AS m)
    ) AS f
    LEFT JOIN taken AS t ON t.position = f.position
    GROUP BY f.validation_set
)
SELECT
    c.validation_set,
    c.n,
    c.n / nullif(sum(c.n) OVER (), 0) AS share,
    c.n_dataset,
    c.n_dataset / sum(c.n_dataset) OVER () AS dataset_share,
    c.n * sum(c.n_dataset) OVER () / (c.n_dataset * nullif(sum(c.n) OVER (), 0)) AS lift
FROM counted AS c
ORDER BY c.n DESC, c.validation_set;
