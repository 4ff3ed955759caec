-- Rankings are stored whole, so that every selection is a prefix read: 10 million rows take about 110 MB (ranks, ids and
-- quadrants compress to almost nothing), and a selection takes one row instead of a copy of its samples.
-- Also here: what the baselines need beside a score, and what the guards (--dedupe, --decontaminate) found.

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
COMMENT ON COLUMN ranking_samples.score IS 'Perplexity or similarity when the ranking was made; null for other strategies.';
COMMENT ON COLUMN ranking_samples.even_rank IS
    'Its place in the ranking by the even folds of the validation sets alone; null without folds.';
COMMENT ON COLUMN ranking_samples.odd_rank IS
    'Its place in the ranking by the odd folds alone; where the two lie on both sides of a cut, the selection is chance.';

-- what older stores recorded of a ranking is the prefix that its largest selection took
INSERT INTO ranking_samples (ranking_id, rank, position, quadrant, difficulty, dot)
SELECT s.ranking_id, c.rank, c.position, c.quadrant, c.difficulty, c.dot
FROM selection_samples AS c
JOIN (
    SELECT ranking_id, arg_max(selection_id, n) AS selection_id FROM selections GROUP BY ranking_id
) AS s USING (selection_id)
ORDER BY s.ranking_id, c.rank;
DROP TABLE selection_samples;

ALTER TABLE rankings ADD COLUMN configuration VARCHAR;
ALTER TABLE rankings ADD COLUMN scores_digest VARCHAR;
ALTER TABLE rankings ADD COLUMN score_run BIGINT;
ALTER TABLE rankings ADD COLUMN guard_runs BIGINT[];
ALTER TABLE rankings ADD COLUMN n_excluded BIGINT;
ALTER TABLE rankings ADD COLUMN half_sizes BIGINT[2];
ALTER TABLE rankings ADD COLUMN even_counts BIGINT[4];
ALTER TABLE rankings ADD COLUMN odd_counts BIGINT[4];
ALTER TABLE rankings ADD COLUMN replaced_by BIGINT;
COMMENT ON COLUMN rankings.configuration IS 'Fingerprint of the configuration alone; null for rankings of older stores, which hold a prefix only.';
COMMENT ON COLUMN rankings.scores_digest IS 'Digest of the scores that the ranking was made from; another digest in the store means that it is out of date.';
COMMENT ON COLUMN rankings.score_run IS 'Run of the perplexity or similarity; null where the strategy uses none.';
COMMENT ON COLUMN rankings.guard_runs IS 'Runs of the guards whose exclusions were left out; null where there were none.';
COMMENT ON COLUMN rankings.n_excluded IS 'Samples that guards left out: neither scored nor unscored.';
COMMENT ON COLUMN rankings.half_sizes IS 'Validation samples of the even and of the odd folds; null without folds.';
COMMENT ON COLUMN rankings.even_counts IS 'Samples in Q1 to Q4 of the ranking by the even folds; null without folds or quadrants.';
COMMENT ON COLUMN rankings.odd_counts IS 'Samples in Q1 to Q4 of the ranking by the odd folds; null without folds or quadrants.';
COMMENT ON COLUMN rankings.replaced_by IS 'Ranking that took its place after scores changed; then it keeps only the prefix that its selections took.';

-- the strategies q1 to q4 take a part of the ranking of diq that does not begin at its start
ALTER TABLE selections ADD COLUMN strategy VARCHAR;
ALTER TABLE selections ADD COLUMN "first" BIGINT DEFAULT 0;
UPDATE selections SET strategy = (SELECT r.strategy FROM rankings AS r WHERE r.ranking_id = selections.ranking_id);
COMMENT ON COLUMN selections.strategy IS 'diq, q1, random, influence and so on.';
COMMENT ON COLUMN selections."first" IS 'Rank of its first sample in the ranking: 0, except for the strategies q2 to q4.';
COMMENT ON COLUMN selections.ranking_id IS 'Ranking that it is a part of.';
COMMENT ON TABLE rankings IS 'Configurations that fix a whole order of a dataset; every selection is a range of one.';
COMMENT ON COLUMN rankings.strategy IS 'diq (also for q1 to q4), random, influence and so on.';

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
COMMENT ON COLUMN selection_samples.score IS 'Perplexity or similarity when the ranking was made.';

-- a run of text scores is of one kind, so that each can be chosen, counted and sealed by itself
UPDATE runs SET kind = json_extract_string(config, '$.scores[0]') WHERE kind = 'text';
ALTER TABLE text_scores ADD COLUMN n_tokens INTEGER;
COMMENT ON COLUMN text_scores.n_tokens IS 'Tokens that a perplexity covers; null for a similarity and for scores computed elsewhere.';
COMMENT ON COLUMN text_scores.similarity IS 'Cosine similarity with the validation set: the mean or the largest over its samples, as the run''s config says.';

CREATE TABLE exclusions (
    run_id BIGINT NOT NULL,
    sample_id UUID NOT NULL,
    reason VARCHAR NOT NULL,
    matched VARCHAR,
    similarity DOUBLE
);
COMMENT ON TABLE exclusions IS 'Samples that a guard (--dedupe, --decontaminate) leaves out of selections; the samples stay in the store.';
COMMENT ON COLUMN exclusions.run_id IS 'Run of the guard: its method and settings.';
COMMENT ON COLUMN exclusions.sample_id IS 'Sample that is left out.';
COMMENT ON COLUMN exclusions.reason IS 'Why, in one line.';
COMMENT ON COLUMN exclusions.matched IS 'What it repeats: the id of the sample that is kept, or the benchmark and row of the question.';
COMMENT ON COLUMN exclusions.similarity IS
    'Jaccard similarity with the kept sample (near), or share of the question''s words that lie in shared runs (decontaminate); null for exact repeats.';
