-- Modifiers of a selection: a walk through a ranking that leaves out what is too near (--diverse), and the order and
-- weights of the file that was written.

ALTER TABLE rankings ADD COLUMN base_ranking BIGINT;
ALTER TABLE rankings ADD COLUMN depth BIGINT;
COMMENT ON COLUMN rankings.base_ranking IS 'Ranking that it is walked from (--diverse); null for all others. Then it holds what was taken so far, and a larger selection goes on.';
COMMENT ON COLUMN rankings.depth IS 'Rows of the base ranking that were walked so far; null without one.';
COMMENT ON COLUMN rankings.n_excluded IS 'Samples that guards left out before the ranking: neither scored nor unscored.';

ALTER TABLE selections ADD COLUMN file_order VARCHAR;
ALTER TABLE selections ADD COLUMN weighted BOOLEAN;
COMMENT ON COLUMN selections.file_order IS 'Order of the file, and of a training that follows it: easy or hard; null: as ranked.';
COMMENT ON COLUMN selections.weighted IS 'Whether the file has a column weight.';

COMMENT ON TABLE exclusions IS 'Samples that a guard (--dedupe, --decontaminate, --drop-outliers, --diverse) leaves out of selections; the samples stay in the store.';
COMMENT ON COLUMN exclusions.matched IS 'What it repeats or is too near to: the id of the sample that is kept, or the benchmark and row of the question; null for outliers.';
COMMENT ON COLUMN exclusions.similarity IS
    'Jaccard similarity with the kept sample (near), cosine with it (diverse), or share of the question''s words that lie in shared runs (decontaminate); null for exact repeats and outliers.';
