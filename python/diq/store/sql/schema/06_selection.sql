-- A change here is also the next migration (01_store.sql).
-- Rankings, the selections that are a range of one, and what guards leave out. Rankings are stored whole, so that every
-- selection is a prefix read: 10 million rows take about 110 MB (ranks, ids and quadrants compress to almost nothing), and
-- a selection takes one row instead of a copy of its samples.

CREATE SEQUENCE ranking_ids;
CREATE SEQUENCE selection_ids;

CREATE TABLE rankings (
    ranking_id BIGINT PRIMARY KEY,
    dataset_id INTEGER NOT NULL,
    strategy VARCHAR NOT NULL,
    influence_run BIGINT,
    difficulty_run BIGINT,
    fingerprint VARCHAR NOT NULL,
    config JSON NOT NULL,
    tau DOUBLE,
    median DOUBLE,
    n_scored BIGINT NOT NULL,
    n_unscored BIGINT NOT NULL,
    quadrant_counts BIGINT[4],
    created_at TIMESTAMP NOT NULL,
    configuration VARCHAR,
    scores_digest VARCHAR,
    score_run BIGINT,
    guard_runs BIGINT[],
    n_excluded BIGINT,
    half_sizes BIGINT[2],
    even_counts BIGINT[4],
    odd_counts BIGINT[4],
    replaced_by BIGINT,
    n_ranked BIGINT,
    base_ranking BIGINT,
    depth BIGINT
);
COMMENT ON TABLE rankings IS 'Configurations that fix a whole order of a dataset; every selection is a range of one.';
COMMENT ON COLUMN rankings.ranking_id IS 'Number of the ranking in this store.';
COMMENT ON COLUMN rankings.dataset_id IS 'Dataset.';
COMMENT ON COLUMN rankings.strategy IS 'diq (also for q1 to q4), random, influence and so on.';
COMMENT ON COLUMN rankings.influence_run IS 'Run of the dots; null where the strategy uses none.';
COMMENT ON COLUMN rankings.difficulty_run IS 'Run of the difficulty; null where the strategy uses none.';
COMMENT ON COLUMN rankings.fingerprint IS 'BLAKE3 of the configuration and of the scores that it was computed from.';
COMMENT ON COLUMN rankings.config IS 'Dimension, percentile or threshold, weights of the validation sets, seed.';
COMMENT ON COLUMN rankings.tau IS 'Difficulty threshold.';
COMMENT ON COLUMN rankings.median IS 'Median of the dots.';
COMMENT ON COLUMN rankings.n_scored IS 'Samples with the scores that the strategy needs: N.';
COMMENT ON COLUMN rankings.n_unscored IS 'Samples without them; never selected.';
COMMENT ON COLUMN rankings.quadrant_counts IS 'Samples in Q1, Q2, Q3 and Q4; null where the strategy uses no quadrants.';
COMMENT ON COLUMN rankings.created_at IS 'When the ranking was computed (UTC).';
COMMENT ON COLUMN rankings.configuration IS 'Fingerprint of the configuration alone; null for rankings of older stores, which hold a prefix only.';
COMMENT ON COLUMN rankings.scores_digest IS 'Digest of the scores that the ranking was made from; another digest in the store means that it is out of date.';
COMMENT ON COLUMN rankings.score_run IS 'Run of the text scores (perplexity, similarity, length and so on); null where the strategy uses none.';
COMMENT ON COLUMN rankings.guard_runs IS 'Runs of the guards whose exclusions were left out; null where there were none.';
COMMENT ON COLUMN rankings.n_excluded IS 'Samples that guards left out before the ranking: neither scored nor unscored.';
COMMENT ON COLUMN rankings.half_sizes IS 'Validation samples of the even and of the odd folds; null without folds.';
COMMENT ON COLUMN rankings.even_counts IS 'Samples in Q1 to Q4 of the ranking by the even folds; null without folds or quadrants.';
COMMENT ON COLUMN rankings.odd_counts IS 'Samples in Q1 to Q4 of the ranking by the odd folds; null without folds or quadrants.';
COMMENT ON COLUMN rankings.replaced_by IS 'Ranking that took its place after scores changed; then it keeps only the prefix that its selections took.';
COMMENT ON COLUMN rankings.n_ranked IS 'How many places of the order are known, where a run was scored in part; null: all.';
COMMENT ON COLUMN rankings.base_ranking IS 'Ranking that it is walked from (--diverse); null for all others. Then it holds what was taken so far, and a larger selection goes on.';
COMMENT ON COLUMN rankings.depth IS 'Rows of the base ranking that were walked so far; null without one.';

CREATE TABLE ranking_samples (
    ranking_id BIGINT NOT NULL,
    rank BIGINT NOT NULL,
    position BIGINT NOT NULL,
    quadrant VARCHAR,
    difficulty DOUBLE,
    dot DOUBLE,
    score DOUBLE,
    even_rank BIGINT,
    odd_rank BIGINT
);
COMMENT ON TABLE ranking_samples IS 'The whole order of each ranking; a selection is a range of its ranks.';
COMMENT ON COLUMN ranking_samples.ranking_id IS 'Ranking.';
COMMENT ON COLUMN ranking_samples.rank IS '0-based place in the ranking.';
COMMENT ON COLUMN ranking_samples.position IS 'Position in the dataset.';
COMMENT ON COLUMN ranking_samples.quadrant IS 'Q1 to Q4; null where the strategy uses no quadrants.';
COMMENT ON COLUMN ranking_samples.difficulty IS 'Difficulty when the ranking was made; null where the strategy uses none.';
COMMENT ON COLUMN ranking_samples.dot IS 'Dot (or cosine) when the ranking was made; null where the strategy uses none.';
COMMENT ON COLUMN ranking_samples.score IS 'Text score (perplexity, similarity, length and so on) when the ranking was made; null for other strategies.';
COMMENT ON COLUMN ranking_samples.even_rank IS
    'Its place in the ranking by the even folds of the validation sets alone; null without folds.';
COMMENT ON COLUMN ranking_samples.odd_rank IS
    'Its place in the ranking by the odd folds alone; where the two lie on both sides of a cut, the selection is chance.';

CREATE TABLE selections (
    selection_id BIGINT PRIMARY KEY,
    name VARCHAR NOT NULL,
    ranking_id BIGINT NOT NULL,
    ratio VARCHAR NOT NULL,
    n_target BIGINT NOT NULL,
    n BIGINT NOT NULL,
    output VARCHAR,
    created_at TIMESTAMP NOT NULL,
    strategy VARCHAR,
    -- the strategies q1 to q4 take a part of the ranking of diq that does not begin at its start
    "first" BIGINT DEFAULT 0,
    digest VARCHAR,
    file_order VARCHAR,
    weighted BOOLEAN
);
COMMENT ON TABLE selections IS 'Every selection that was made.';
COMMENT ON COLUMN selections.selection_id IS 'Number of the selection in this store.';
COMMENT ON COLUMN selections.name IS 'Name for other commands; the latest selection of a name is meant.';
COMMENT ON COLUMN selections.ranking_id IS 'Ranking that it is a part of.';
COMMENT ON COLUMN selections.ratio IS 'Ratio as the decimal that was typed.';
COMMENT ON COLUMN selections.n_target IS 'floor(N * ratio).';
COMMENT ON COLUMN selections.n IS 'Samples selected; less than n_target only for the strategies q1 to q4.';
COMMENT ON COLUMN selections.output IS 'File that was written; null when none.';
COMMENT ON COLUMN selections.created_at IS 'When the selection was made (UTC).';
COMMENT ON COLUMN selections.strategy IS 'diq, q1, random, influence and so on.';
COMMENT ON COLUMN selections."first" IS 'Rank of its first sample in the ranking: 0, except for the strategies q2 to q4.';
COMMENT ON COLUMN selections.digest IS 'Hash of its sample ids and their order: a dataset that was made anew since no longer fits. Null for selections of older stores.';
COMMENT ON COLUMN selections.file_order IS 'Order of the file, and of a training that follows it: easy or hard; null: as ranked.';
COMMENT ON COLUMN selections.weighted IS 'Whether the file has a column weight.';

CREATE TABLE exclusions (
    run_id BIGINT NOT NULL,
    sample_id UUID NOT NULL,
    reason VARCHAR NOT NULL,
    matched VARCHAR,
    similarity DOUBLE
);
COMMENT ON TABLE exclusions IS 'Samples that a guard (--dedupe, --decontaminate, --drop-outliers, --diverse) leaves out of selections; the samples stay in the store.';
COMMENT ON COLUMN exclusions.run_id IS 'Run of the guard: its method and settings.';
COMMENT ON COLUMN exclusions.sample_id IS 'Sample that is left out.';
COMMENT ON COLUMN exclusions.reason IS 'Why, in one line.';
COMMENT ON COLUMN exclusions.matched IS 'What it repeats or is too near to: the id of the sample that is kept, or the benchmark and row of the question; null for outliers.';
COMMENT ON COLUMN exclusions.similarity IS
    'Jaccard similarity with the kept sample (near), cosine with it (diverse), or share of the question''s words that lie in shared runs (decontaminate); null for exact repeats and outliers.';

CREATE VIEW selection_samples AS
SELECT s.selection_id, r.rank - s."first" AS rank, d.sample_id, r.position, r.quadrant, r.difficulty, r.dot, r.score
FROM selections AS s
JOIN rankings AS k ON k.ranking_id = s.ranking_id
JOIN ranking_samples AS r ON r.ranking_id = s.ranking_id AND r.rank >= s."first" AND r.rank < s."first" + s.n
JOIN dataset_samples AS d ON d.dataset_id = k.dataset_id AND d.position = r.position;
COMMENT ON VIEW selection_samples IS 'Samples of every selection; order by rank.';
COMMENT ON COLUMN selection_samples.selection_id IS 'Selection.';
COMMENT ON COLUMN selection_samples.rank IS '0-based place in the selection.';
COMMENT ON COLUMN selection_samples.sample_id IS 'Sample.';
COMMENT ON COLUMN selection_samples.position IS 'Position in the dataset.';
COMMENT ON COLUMN selection_samples.quadrant IS 'Q1 to Q4; null where the strategy uses no quadrants.';
COMMENT ON COLUMN selection_samples.difficulty IS 'Difficulty when the ranking was made.';
COMMENT ON COLUMN selection_samples.dot IS 'Dot (or cosine) when the ranking was made.';
COMMENT ON COLUMN selection_samples.score IS 'Text score when the ranking was made: perplexity, similarity, length and so on.';
