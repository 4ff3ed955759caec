-- A change here is also the next migration (01_store.sql).
-- Scores. Big tables carry no primary key: an index on scores costs three times the size of the scores; uniqueness of
-- (run, sample, validation set) is kept by the one writer, which inserts what an anti-join finds missing.

CREATE TABLE difficulty_scores (
    run_id BIGINT NOT NULL,
    sample_id UUID NOT NULL,
    knowledge DOUBLE,
    reasoning DOUBLE,
    overall DOUBLE,
    knowledge_level UTINYINT,
    reasoning_level UTINYINT,
    overall_level UTINYINT,
    reason VARCHAR,
    item_id UUID
);
COMMENT ON TABLE difficulty_scores IS 'Difficulty of each sample on the three Likert dimensions (1 to 5).';
COMMENT ON COLUMN difficulty_scores.run_id IS 'Run.';
COMMENT ON COLUMN difficulty_scores.sample_id IS 'Sample.';
COMMENT ON COLUMN difficulty_scores.knowledge IS 'Knowledge complexity; expected Likert value for a classifier.';
COMMENT ON COLUMN difficulty_scores.reasoning IS 'Reasoning complexity; expected Likert value for a classifier.';
COMMENT ON COLUMN difficulty_scores.overall IS 'Overall difficulty; expected Likert value for a classifier.';
COMMENT ON COLUMN difficulty_scores.knowledge_level IS 'Most probable knowledge level, 1 to 5.';
COMMENT ON COLUMN difficulty_scores.reasoning_level IS 'Most probable reasoning level, 1 to 5.';
COMMENT ON COLUMN difficulty_scores.overall_level IS 'Most probable overall level, 1 to 5.';
COMMENT ON COLUMN difficulty_scores.reason IS 'Why there is no score; null where there is one.';
COMMENT ON COLUMN difficulty_scores.item_id IS 'Annotated question, for replies and judgments; null for other methods.';

CREATE TABLE influence_scores (
    run_id BIGINT NOT NULL,
    sample_id UUID NOT NULL,
    validation_set_id INTEGER NOT NULL,
    dot DOUBLE,
    gradient_norm DOUBLE,
    loss DOUBLE,
    answer_tokens INTEGER,
    reason VARCHAR,
    fold_dots DOUBLE[],
    dot_low DOUBLE,
    dot_high DOUBLE
);
COMMENT ON TABLE influence_scores IS 'Dot product of each sample''s gradient with the mean gradient of a validation set (Eq. 4).';
COMMENT ON COLUMN influence_scores.run_id IS 'Run.';
COMMENT ON COLUMN influence_scores.sample_id IS 'Sample.';
COMMENT ON COLUMN influence_scores.validation_set_id IS 'Validation set.';
COMMENT ON COLUMN influence_scores.dot IS 'Influence; null where reason says why there is none.';
COMMENT ON COLUMN influence_scores.gradient_norm IS 'Euclidean norm of the sample''s gradient; null when not asked for.';
COMMENT ON COLUMN influence_scores.loss IS 'Loss of the sample: mean (or sum) of its answer-token cross-entropies, nats.';
COMMENT ON COLUMN influence_scores.answer_tokens IS 'Number of answer tokens that the loss covers.';
COMMENT ON COLUMN influence_scores.reason IS 'Why there is no dot; null where there is one.';
COMMENT ON COLUMN influence_scores.fold_dots IS
    'Dot with the mean gradient of each fold of the validation set; dot is their mean, weighted by fold_sizes of run_validation_sets.';
COMMENT ON COLUMN influence_scores.dot_low IS 'Lower end of a rater''s split-conformal interval; null for computed dots.';
COMMENT ON COLUMN influence_scores.dot_high IS 'Upper end of the interval; its coverage is in the run''s config.';

CREATE TABLE text_scores (
    run_id BIGINT NOT NULL,
    sample_id UUID NOT NULL,
    validation_set_id INTEGER,
    perplexity DOUBLE,
    similarity DOUBLE,
    reason VARCHAR,
    n_tokens INTEGER,
    value DOUBLE
);
COMMENT ON TABLE text_scores IS 'Scores of the baselines that need no gradient.';
COMMENT ON COLUMN text_scores.run_id IS 'Run.';
COMMENT ON COLUMN text_scores.sample_id IS 'Sample.';
COMMENT ON COLUMN text_scores.validation_set_id IS 'Validation set of a similarity or BM25; null for the others.';
COMMENT ON COLUMN text_scores.perplexity IS 'Perplexity of the full text.';
COMMENT ON COLUMN text_scores.similarity IS 'Cosine similarity with the validation set: the mean or the largest over its samples, as the run''s config says.';
COMMENT ON COLUMN text_scores.reason IS 'Why there is no score; null where there is one.';
COMMENT ON COLUMN text_scores.n_tokens IS 'Tokens that a perplexity, IFD or embedding covers; null for the others and for scores computed elsewhere.';
COMMENT ON COLUMN text_scores.value IS
    'Score of a run of another kind, which says what it is: length, ifd, bm25, rds (length of the embedding), pass_rate.';
