-- Text scores of more kinds than perplexity and similarity: length, ifd, bm25, rds, pass_rate.

ALTER TABLE text_scores ADD COLUMN value DOUBLE;
COMMENT ON COLUMN text_scores.validation_set_id IS 'Validation set of a similarity or BM25; null for the others.';
COMMENT ON COLUMN text_scores.n_tokens IS 'Tokens that a perplexity, IFD or embedding covers; null for the others and for scores computed elsewhere.';
COMMENT ON COLUMN text_scores.value IS
    'Score of a run of another kind, which says what it is: length, ifd, bm25, rds (length of the embedding), pass_rate.';
COMMENT ON COLUMN gradient_indexes.kind IS 'rademacher, sparse or subspace; rds: embeddings in place of gradients.';
COMMENT ON COLUMN rankings.score_run IS 'Run of the text scores (perplexity, similarity, length and so on); null where the strategy uses none.';
COMMENT ON COLUMN ranking_samples.score IS 'Text score (perplexity, similarity, length and so on) when the ranking was made; null for other strategies.';
COMMENT ON COLUMN selection_samples.score IS 'Text score when the ranking was made: perplexity, similarity, length and so on.';

DROP VIEW score_coverage;

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
