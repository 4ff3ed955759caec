-- A change here is also the next migration (01_store.sql).
-- Views that answer the usual questions in any DuckDB client: coverage of scores, quadrants, difficulty levels, overlap
-- and sources of selections. The one that calls a macro (ranking_states) is made beside the macros.
-- Over 10 million rows each takes seconds unless it is filtered; the comments say by what.

CREATE VIEW score_coverage AS
WITH pairs AS (
    SELECT
        rd.run_id,
        rd.dataset_id,
        r.kind,
        r.method,
        m.name AS model,
        rd.state,
        ds.name AS dataset,
        (SELECT count(*) FROM dataset_samples AS x WHERE x.dataset_id = rd.dataset_id) AS n_samples
    FROM run_datasets AS rd
    JOIN runs AS r USING (run_id)
    JOIN datasets AS ds USING (dataset_id)
    LEFT JOIN models AS m USING (model_id)
),
-- per validation set; most kinds of text scores have none
found AS (
    SELECT
        rd.run_id,
        rd.dataset_id,
        s.validation_set_id,
        count(*) FILTER (WHERE isfinite(s.score)) AS n_scored,
        count(*) AS n_rows,
        histogram(s.reason) AS reasons
    FROM (
        SELECT run_id, sample_id, validation_set_id, dot AS score, reason FROM influence_scores
        UNION ALL
        SELECT run_id, sample_id, validation_set_id, coalesce(perplexity, similarity, value), reason FROM text_scores
    ) AS s
    JOIN run_datasets AS rd ON rd.run_id = s.run_id
    JOIN dataset_samples AS d ON d.dataset_id = rd.dataset_id AND d.sample_id = s.sample_id
    GROUP BY rd.run_id, rd.dataset_id, s.validation_set_id
),
-- also what no sample has a row of yet
expected AS (
    SELECT p.run_id, p.dataset_id, rv.validation_set_id
    FROM pairs AS p
    -- an embedding of rds is of the sample alone
    LEFT JOIN run_validation_sets AS rv ON rv.run_id = p.run_id AND p.kind <> 'rds'
    WHERE p.kind IN ('influence', 'perplexity', 'similarity', 'length', 'ifd', 'bm25', 'rds', 'pass_rate')
    UNION
    SELECT f.run_id, f.dataset_id, f.validation_set_id FROM found AS f
),
levels AS (
    SELECT
        rd.run_id,
        rd.dataset_id,
        count(*) FILTER (WHERE isfinite(s.knowledge)) AS knowledge,
        count(*) FILTER (WHERE isfinite(s.reasoning)) AS reasoning,
        count(*) FILTER (WHERE isfinite(s.overall)) AS overall,
        count(*) AS n_rows,
        histogram(s.reason) AS reasons
    FROM difficulty_scores AS s
    JOIN run_datasets AS rd ON rd.run_id = s.run_id
    JOIN dataset_samples AS d ON d.dataset_id = rd.dataset_id AND d.sample_id = s.sample_id
    GROUP BY rd.run_id, rd.dataset_id
),
counts AS (
    SELECT e.run_id, e.dataset_id, e.validation_set_id, NULL AS dimension, f.n_scored, f.n_rows, f.reasons
    FROM expected AS e
    LEFT JOIN found AS f
        ON f.run_id = e.run_id
        AND f.dataset_id = e.dataset_id
        AND f.validation_set_id IS NOT DISTINCT FROM e.validation_set_id
    UNION ALL
    SELECT
        p.run_id,
        p.dataset_id,
        NULL,
        a.dimension,
        CASE a.dimension WHEN 'knowledge' THEN l.knowledge WHEN 'reasoning' THEN l.reasoning ELSE l.overall END,
        l.n_rows,
        l.reasons
    FROM pairs AS p
    CROSS JOIN (VALUES ('knowledge'), ('reasoning'), ('overall')) AS a (dimension)
    LEFT JOIN levels AS l ON l.run_id = p.run_id AND l.dataset_id = p.dataset_id
    WHERE p.kind = 'difficulty'
)
SELECT
    p.dataset,
    p.kind AS score,
    c.dimension,
    p.run_id,
    p.method,
    p.model,
    v.name AS validation_set,
    p.state,
    coalesce(c.n_scored, 0) AS n_scored,
    coalesce(c.n_rows - c.n_scored, 0) AS n_without_score,
    p.n_samples - coalesce(c.n_rows, 0) AS n_missing,
    p.n_samples,
    c.reasons
FROM counts AS c
JOIN pairs AS p ON p.run_id = c.run_id AND p.dataset_id = c.dataset_id
LEFT JOIN validation_sets AS v ON v.validation_set_id = c.validation_set_id;
COMMENT ON VIEW score_coverage IS 'How many samples of each dataset have each score; reads every score of the store.';
COMMENT ON COLUMN score_coverage.dataset IS 'Name of the dataset.';
COMMENT ON COLUMN score_coverage.score IS 'Kind of score: influence, difficulty, perplexity, similarity, length, ifd, bm25, rds or pass_rate.';
COMMENT ON COLUMN score_coverage.dimension IS 'knowledge, reasoning or overall; null for other scores than difficulty.';
COMMENT ON COLUMN score_coverage.run_id IS 'Run that the scores belong to.';
COMMENT ON COLUMN score_coverage.method IS 'Method of the run.';
COMMENT ON COLUMN score_coverage.model IS 'Name of the model; null where there is none.';
COMMENT ON COLUMN score_coverage.validation_set IS 'Validation set; null for scores that are of none.';
COMMENT ON COLUMN score_coverage.state IS 'open until the run has finished with the dataset, then sealed.';
COMMENT ON COLUMN score_coverage.n_scored IS 'Samples with a finite score.';
COMMENT ON COLUMN score_coverage.n_without_score IS 'Samples that were scored and got no finite score; reasons says why.';
COMMENT ON COLUMN score_coverage.n_missing IS 'Samples that were not scored.';
COMMENT ON COLUMN score_coverage.n_samples IS 'Samples of the dataset: the sum of the three.';
COMMENT ON COLUMN score_coverage.reasons IS 'How many samples have no score for which reason; null where there is none.';

CREATE VIEW ranking_quadrants AS
SELECT
    k.ranking_id,
    d.name AS dataset,
    k.strategy,
    m.name AS model,
    k.influence_run,
    k.difficulty_run,
    k.config ->> '$.influence' AS influence,
    k.config ->> '$.difficulty' AS difficulty,
    k.tau,
    k.median,
    q.quadrant,
    k.quadrant_counts[q.number] AS n,
    k.quadrant_counts[q.number] / k.n_scored AS share,
    k.replaced_by IS NOT NULL AS replaced
FROM rankings AS k
JOIN datasets AS d USING (dataset_id)
LEFT JOIN runs AS r ON r.run_id = k.influence_run
LEFT JOIN models AS m USING (model_id)
CROSS JOIN (VALUES (1, 'Q1'), (2, 'Q2'), (3, 'Q3'), (4, 'Q4')) AS q (number, quadrant)
WHERE k.quadrant_counts IS NOT NULL;
COMMENT ON VIEW ranking_quadrants IS 'Samples in each quadrant of every ranking that has quadrants, four rows each.';
COMMENT ON COLUMN ranking_quadrants.ranking_id IS 'Ranking.';
COMMENT ON COLUMN ranking_quadrants.dataset IS 'Name of the dataset.';
COMMENT ON COLUMN ranking_quadrants.strategy IS 'diq; its selections may be of the strategies q1 to q4.';
COMMENT ON COLUMN ranking_quadrants.model IS 'Name of the model that the dots belong to.';
COMMENT ON COLUMN ranking_quadrants.influence_run IS 'Run of the dots.';
COMMENT ON COLUMN ranking_quadrants.difficulty_run IS 'Run of the difficulty.';
COMMENT ON COLUMN ranking_quadrants.influence IS 'dot or cosine; null for rankings of older stores, which are by the dot.';
COMMENT ON COLUMN ranking_quadrants.difficulty IS 'Dimension: knowledge, reasoning or overall.';
COMMENT ON COLUMN ranking_quadrants.tau IS 'Difficulty threshold.';
COMMENT ON COLUMN ranking_quadrants.median IS 'Median of the dots (or cosines).';
COMMENT ON COLUMN ranking_quadrants.quadrant IS 'Q1 to Q4.';
COMMENT ON COLUMN ranking_quadrants.n IS 'Samples in it.';
COMMENT ON COLUMN ranking_quadrants.share IS 'Share of the samples that have both scores.';
COMMENT ON COLUMN ranking_quadrants.replaced IS 'Whether a newer ranking took its place after scores changed.';

CREATE VIEW difficulty_levels AS
WITH valued AS (
    SELECT
        rd.dataset_id,
        rd.run_id,
        a.dimension,
        CASE a.dimension WHEN 'knowledge' THEN s.knowledge WHEN 'reasoning' THEN s.reasoning ELSE s.overall END AS value
    FROM difficulty_scores AS s
    JOIN run_datasets AS rd ON rd.run_id = s.run_id
    JOIN dataset_samples AS x ON x.dataset_id = rd.dataset_id AND x.sample_id = s.sample_id
    CROSS JOIN (VALUES ('knowledge'), ('reasoning'), ('overall')) AS a (dimension)
)
SELECT
    d.name AS dataset,
    v.run_id,
    r.method,
    m.name AS model,
    v.dimension,
    TRY_CAST(floor(v.value + 0.5) AS INTEGER) AS level,
    count(*) AS n,
    count(*) / sum(count(*)) OVER (PARTITION BY d.name, v.run_id, v.dimension) AS share,
    count(DISTINCT v.value) AS n_values,
    avg(v.value) AS mean
FROM valued AS v
JOIN datasets AS d USING (dataset_id)
JOIN runs AS r USING (run_id)
LEFT JOIN models AS m USING (model_id)
WHERE isfinite(v.value)
GROUP BY d.name, v.run_id, r.method, m.name, v.dimension, level;
COMMENT ON VIEW difficulty_levels IS
    'Samples at each difficulty level; reads every difficulty score, a filter by dimension saves two thirds.';
COMMENT ON COLUMN difficulty_levels.dataset IS 'Name of the dataset.';
COMMENT ON COLUMN difficulty_levels.run_id IS 'Difficulty run.';
COMMENT ON COLUMN difficulty_levels.method IS 'Method of the run: classifier, columns, external.';
COMMENT ON COLUMN difficulty_levels.model IS 'Name of the classifier; null where there is none.';
COMMENT ON COLUMN difficulty_levels.dimension IS 'knowledge, reasoning or overall.';
COMMENT ON COLUMN difficulty_levels.level IS 'Difficulty rounded to whole numbers, halves up; null beyond the range of an integer.';
COMMENT ON COLUMN difficulty_levels.n IS 'Samples with a finite difficulty of that level.';
COMMENT ON COLUMN difficulty_levels.share IS 'Share of the samples with a finite difficulty.';
COMMENT ON COLUMN difficulty_levels.n_values IS 'Distinct exact values: the fewer, the more ties decide the quadrants.';
COMMENT ON COLUMN difficulty_levels.mean IS 'Mean of the exact values.';

CREATE VIEW selection_overlap AS
SELECT
    d.name AS dataset,
    a.selection_id AS a,
    b.selection_id AS b,
    a.name AS a_name,
    b.name AS b_name,
    a.n AS n_a,
    b.n AS n_b,
    o.shared,
    o.shared / (a.n + b.n - o.shared) AS jaccard,
    o.shared / least(a.n, b.n) AS share_of_smaller
FROM selections AS a
JOIN rankings AS k ON k.ranking_id = a.ranking_id
JOIN datasets AS d ON d.dataset_id = k.dataset_id
JOIN rankings AS l ON l.dataset_id = k.dataset_id
JOIN selections AS b ON b.ranking_id = l.ranking_id AND b.selection_id <> a.selection_id
-- a side join, so that a filter by a and b decides which pairs are counted at all
CROSS JOIN LATERAL (
    SELECT count(*) AS shared
    FROM ranking_samples AS x
    JOIN ranking_samples AS y ON y.position = x.position
    WHERE
        x.ranking_id = a.ranking_id AND x.rank >= a."first" AND x.rank < a."first" + a.n
        AND y.ranking_id = b.ranking_id AND y.rank >= b."first" AND y.rank < b."first" + b.n
) AS o;
COMMENT ON VIEW selection_overlap IS
    'What two selections of one dataset share, both ways round; filter by a and b (or their names): all pairs take long.';
COMMENT ON COLUMN selection_overlap.dataset IS 'Name of the dataset.';
COMMENT ON COLUMN selection_overlap.a IS 'One selection.';
COMMENT ON COLUMN selection_overlap.b IS 'The other selection.';
COMMENT ON COLUMN selection_overlap.a_name IS 'Name of the one; several selections may share a name.';
COMMENT ON COLUMN selection_overlap.b_name IS 'Name of the other.';
COMMENT ON COLUMN selection_overlap.n_a IS 'Samples of the one.';
COMMENT ON COLUMN selection_overlap.n_b IS 'Samples of the other.';
COMMENT ON COLUMN selection_overlap.shared IS 'Samples that are in both.';
COMMENT ON COLUMN selection_overlap.jaccard IS 'Shared samples over the samples that are in either.';
COMMENT ON COLUMN selection_overlap.share_of_smaller IS 'Share of the smaller selection that is in the larger.';

CREATE VIEW selection_sources AS
SELECT
    s.selection_id,
    s.name AS selection,
    d.name AS dataset,
    f.source_id,
    o.path AS source,
    f.n,
    f.n / nullif(sum(f.n) OVER (PARTITION BY s.selection_id), 0) AS share,
    f.n_dataset,
    f.n_dataset / sum(f.n_dataset) OVER (PARTITION BY s.selection_id) AS dataset_share,
    f.n * sum(f.n_dataset) OVER (PARTITION BY s.selection_id)
    / (f.n_dataset * nullif(sum(f.n) OVER (PARTITION BY s.selection_id), 0)) AS lift
FROM selections AS s
JOIN rankings AS k ON k.ranking_id = s.ranking_id
JOIN datasets AS d ON d.dataset_id = k.dataset_id
CROSS JOIN LATERAL (
    SELECT x.source_id, count(*) AS n_dataset, count(c.position) AS n
    FROM dataset_samples AS x
    LEFT JOIN (
        SELECT r.position
        FROM ranking_samples AS r
        WHERE r.ranking_id = s.ranking_id AND r.rank >= s."first" AND r.rank < s."first" + s.n
    ) AS c ON c.position = x.position
    WHERE x.dataset_id = k.dataset_id
    GROUP BY x.source_id
) AS f
LEFT JOIN sources AS o ON o.source_id = f.source_id;
COMMENT ON VIEW selection_sources IS
    'Share of each source in a selection beside its share in the dataset; filter by selection: each one reads its dataset.';
COMMENT ON COLUMN selection_sources.selection_id IS 'Selection.';
COMMENT ON COLUMN selection_sources.selection IS 'Its name; several selections may share one.';
COMMENT ON COLUMN selection_sources.dataset IS 'Name of the dataset.';
COMMENT ON COLUMN selection_sources.source_id IS 'Source.';
COMMENT ON COLUMN selection_sources.source IS 'Path of the source as it was given at ingest.';
COMMENT ON COLUMN selection_sources.n IS 'Selected samples that came from it.';
COMMENT ON COLUMN selection_sources.share IS 'Share of the selection.';
COMMENT ON COLUMN selection_sources.n_dataset IS 'Samples of the dataset that came from it.';
COMMENT ON COLUMN selection_sources.dataset_share IS 'Share of the dataset.';
COMMENT ON COLUMN selection_sources.lift IS 'share over dataset_share: above 1, the selection prefers the source.';
