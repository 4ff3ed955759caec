-- The first schema: datasets and samples, models and runs, scores, rankings and selections, evaluations, judgments.
-- Big tables carry no primary key: an index on scores costs three times the size of the scores; uniqueness of
-- (run, sample, validation set) is kept by the one writer, which inserts what an anti-join finds missing.

CREATE TABLE schema_migrations (
    version INTEGER PRIMARY KEY,
    name VARCHAR NOT NULL,
    applied_at TIMESTAMP NOT NULL
);
COMMENT ON TABLE schema_migrations IS 'Schema changes that this store has been through.';
COMMENT ON COLUMN schema_migrations.version IS 'Number of the migration.';
COMMENT ON COLUMN schema_migrations.name IS 'Name of its file.';
COMMENT ON COLUMN schema_migrations.applied_at IS 'When it was applied (UTC).';

CREATE SEQUENCE dataset_ids;
CREATE SEQUENCE source_ids;
CREATE SEQUENCE validation_set_ids;
CREATE SEQUENCE run_ids;
CREATE SEQUENCE ranking_ids;
CREATE SEQUENCE selection_ids;
CREATE SEQUENCE evaluation_ids;
CREATE SEQUENCE judgment_ids;

CREATE TABLE settings (
    name VARCHAR PRIMARY KEY,
    value VARCHAR NOT NULL
);
COMMENT ON TABLE settings IS 'Facts about this store itself, such as which macros it holds.';
COMMENT ON COLUMN settings.name IS 'Name of the fact.';
COMMENT ON COLUMN settings.value IS 'Its value as text.';

CREATE TABLE datasets (
    dataset_id INTEGER PRIMARY KEY,
    name VARCHAR NOT NULL UNIQUE,
    kind VARCHAR NOT NULL CHECK (kind IN ('training', 'validation')),
    created_at TIMESTAMP NOT NULL
);
COMMENT ON TABLE datasets IS 'Named collections of samples: training pools and the data behind validation sets.';
COMMENT ON COLUMN datasets.dataset_id IS 'Number of the dataset in this store.';
COMMENT ON COLUMN datasets.name IS 'Name given at ingest; commands and macros take it.';
COMMENT ON COLUMN datasets.kind IS 'training: what is selected from; validation: what influence is measured on.';
COMMENT ON COLUMN datasets.created_at IS 'When the dataset was first ingested (UTC).';

CREATE TABLE sources (
    source_id INTEGER PRIMARY KEY,
    dataset_id INTEGER NOT NULL,
    path VARCHAR NOT NULL,
    kind VARCHAR NOT NULL CHECK (kind IN ('samples', 'scores')),
    layout VARCHAR NOT NULL,
    content_hash VARCHAR NOT NULL,
    options JSON NOT NULL,
    first_position BIGINT,
    n_rows BIGINT NOT NULL,
    n_samples BIGINT NOT NULL,
    n_duplicates BIGINT NOT NULL,
    n_rejects BIGINT NOT NULL,
    ingested_at TIMESTAMP NOT NULL
);
COMMENT ON TABLE sources IS 'Every file that was ingested, with its counts; the same file is ingested once.';
COMMENT ON COLUMN sources.source_id IS 'Number of the source in this store.';
COMMENT ON COLUMN sources.dataset_id IS 'Dataset that the source belongs to.';
COMMENT ON COLUMN sources.path IS 'File, folder or hub id as given on the command line.';
COMMENT ON COLUMN sources.kind IS 'samples: rows of text; scores: scores computed elsewhere.';
COMMENT ON COLUMN sources.layout IS 'Row layout that was found or asked for, such as alpaca, sharegpt or scores.';
COMMENT ON COLUMN sources.content_hash IS 'BLAKE3 of the file (of all files of a folder), hexadecimal.';
COMMENT ON COLUMN sources.options IS 'Options that change what is read: format, map, drop_reasoning and so on.';
COMMENT ON COLUMN sources.first_position IS 'Dataset position of the first row of this source; null for scores.';
COMMENT ON COLUMN sources.n_rows IS 'Rows read; the sum of samples, duplicates and rejects.';
COMMENT ON COLUMN sources.n_samples IS 'Rows that became a sample (or a score) of the dataset.';
COMMENT ON COLUMN sources.n_duplicates IS 'Rows that repeat an earlier row of the dataset exactly.';
COMMENT ON COLUMN sources.n_rejects IS 'Rows that could not be used; table rejects says why.';
COMMENT ON COLUMN sources.ingested_at IS 'When the source was ingested (UTC).';

CREATE TABLE samples (
    sample_id UUID NOT NULL,
    -- text shrinks to a sixth (MedQuAD: 36 MB to 5.5 MB), and less is written
    messages JSON NOT NULL USING COMPRESSION zstd,
    rejected JSON USING COMPRESSION zstd
);
COMMENT ON TABLE samples IS 'The text of every distinct sample, whatever dataset or file it came from; never deleted.';
COMMENT ON COLUMN samples.sample_id IS 'First 128 bits of BLAKE3 over the canonical JSON of messages (and rejected).';
COMMENT ON COLUMN samples.messages IS 'Canonical JSON: list of {content, role[, reasoning_content]}, sorted keys.';
COMMENT ON COLUMN samples.rejected IS 'Preference pairs: the refused answer as a message list; otherwise null.';

CREATE TABLE dataset_samples (
    dataset_id INTEGER NOT NULL,
    position BIGINT NOT NULL,
    sample_id UUID NOT NULL,
    source_id INTEGER NOT NULL,
    line BIGINT NOT NULL,
    split VARCHAR NOT NULL,
    attributes JSON
);
COMMENT ON TABLE dataset_samples IS 'Which samples a dataset holds and where each was read.';
COMMENT ON COLUMN dataset_samples.dataset_id IS 'Dataset.';
COMMENT ON COLUMN dataset_samples.position IS
    '0-based row of the dataset, counted over all rows read, so it also counts duplicates and rejects.';
COMMENT ON COLUMN dataset_samples.sample_id IS 'Sample.';
COMMENT ON COLUMN dataset_samples.source_id IS 'Source that the row came from.';
COMMENT ON COLUMN dataset_samples.line IS '1-based line of a text file, or 1-based row of any other container.';
COMMENT ON COLUMN dataset_samples.split IS 'train, or validation for the samples of a validation set, unused for the rest.';
COMMENT ON COLUMN dataset_samples.attributes IS 'The short other columns of the row (at most 256 characters each) as JSON.';

CREATE TABLE duplicates (
    dataset_id INTEGER NOT NULL,
    position BIGINT NOT NULL,
    sample_id UUID NOT NULL,
    source_id INTEGER NOT NULL,
    line BIGINT NOT NULL
);
COMMENT ON TABLE duplicates IS 'Rows that repeat an earlier row of the same dataset exactly.';
COMMENT ON COLUMN duplicates.dataset_id IS 'Dataset.';
COMMENT ON COLUMN duplicates.position IS '0-based row of the dataset.';
COMMENT ON COLUMN duplicates.sample_id IS 'The sample that the row repeats.';
COMMENT ON COLUMN duplicates.source_id IS 'Source that the row came from.';
COMMENT ON COLUMN duplicates.line IS '1-based line or row in the source.';

CREATE TABLE rejects (
    dataset_id INTEGER NOT NULL,
    source_id INTEGER NOT NULL,
    source VARCHAR NOT NULL,
    line BIGINT NOT NULL,
    position BIGINT,
    reason VARCHAR NOT NULL,
    content VARCHAR
);
COMMENT ON TABLE rejects IS 'Rows that were read and could not be used.';
COMMENT ON COLUMN rejects.dataset_id IS 'Dataset that the row was meant for.';
COMMENT ON COLUMN rejects.source_id IS 'Source that the row came from.';
COMMENT ON COLUMN rejects.source IS 'Path of the source.';
COMMENT ON COLUMN rejects.line IS '1-based line or row in the source.';
COMMENT ON COLUMN rejects.position IS '0-based row of the dataset; null for rows of a score file.';
COMMENT ON COLUMN rejects.reason IS 'Why the row cannot be used.';
COMMENT ON COLUMN rejects.content IS 'The start of the row, at most 2,000 characters.';

CREATE TABLE models (
    model_id VARCHAR PRIMARY KEY,
    name VARCHAR NOT NULL,
    source VARCHAR NOT NULL,
    architecture VARCHAR,
    n_parameters BIGINT,
    added_at TIMESTAMP NOT NULL
);
COMMENT ON TABLE models IS 'Models that scores belong to, by what they are, not by where they lie.';
COMMENT ON COLUMN models.model_id IS 'Fingerprint of weights and configuration: a changed checkpoint is another model.';
COMMENT ON COLUMN models.name IS 'Hub id, name of the folder, or what --model-name said; commands and macros take it.';
COMMENT ON COLUMN models.source IS 'Folder or hub id that it was loaded from; external for scores computed elsewhere.';
COMMENT ON COLUMN models.architecture IS 'Class of the transformers model.';
COMMENT ON COLUMN models.n_parameters IS 'Number of parameters.';
COMMENT ON COLUMN models.added_at IS 'When the model was first seen (UTC).';

CREATE TABLE validation_sets (
    validation_set_id INTEGER PRIMARY KEY,
    name VARCHAR NOT NULL UNIQUE,
    dataset_id INTEGER,
    n_samples INTEGER,
    seed BIGINT,
    created_at TIMESTAMP NOT NULL
);
COMMENT ON TABLE validation_sets IS 'Validation sets: the samples whose mean gradient influence is measured against.';
COMMENT ON COLUMN validation_sets.validation_set_id IS 'Number of the validation set in this store.';
COMMENT ON COLUMN validation_sets.name IS 'Name; usually the task, such as medqa.';
COMMENT ON COLUMN validation_sets.dataset_id IS 'Dataset that it was drawn from; null for scores computed elsewhere.';
COMMENT ON COLUMN validation_sets.n_samples IS 'Number of samples; its weight when dots of several sets are pooled (Eq. 3).';
COMMENT ON COLUMN validation_sets.seed IS 'Seed of the draw; null when every sample was taken.';
COMMENT ON COLUMN validation_sets.created_at IS 'When the set was made (UTC).';

CREATE TABLE validation_samples (
    validation_set_id INTEGER NOT NULL,
    sample_id UUID NOT NULL,
    position BIGINT NOT NULL
);
COMMENT ON TABLE validation_samples IS 'Samples of each validation set.';
COMMENT ON COLUMN validation_samples.validation_set_id IS 'Validation set.';
COMMENT ON COLUMN validation_samples.sample_id IS 'Sample.';
COMMENT ON COLUMN validation_samples.position IS 'Position of the sample in the dataset that the set was drawn from.';

CREATE TABLE runs (
    run_id BIGINT PRIMARY KEY,
    kind VARCHAR NOT NULL,
    method VARCHAR NOT NULL,
    model_id VARCHAR,
    fingerprint VARCHAR NOT NULL UNIQUE,
    config JSON NOT NULL,
    environment JSON NOT NULL,
    result JSON,
    created_at TIMESTAMP NOT NULL
);
COMMENT ON TABLE runs IS 'Recorded configurations: one row for everything that can change a score, and for every training.';
COMMENT ON COLUMN runs.run_id IS 'Number of the run in this store.';
COMMENT ON COLUMN runs.kind IS 'influence, difficulty, train and so on.';
COMMENT ON COLUMN runs.method IS 'How: exact, classifier, columns, external, sft and so on.';
COMMENT ON COLUMN runs.model_id IS 'Model that the run used; null where there is none.';
COMMENT ON COLUMN runs.fingerprint IS 'BLAKE3 of kind, method, model and config: the same configuration is the same run.';
COMMENT ON COLUMN runs.config IS 'Every setting that changes the numbers, defaults included.';
COMMENT ON COLUMN runs.environment IS 'Versions and hardware; recorded, not part of the fingerprint.';
COMMENT ON COLUMN runs.result IS 'What came out, for runs that are not scores: losses, steps, files.';
COMMENT ON COLUMN runs.created_at IS 'When the run was first started (UTC).';

CREATE TABLE run_datasets (
    run_id BIGINT NOT NULL,
    dataset_id INTEGER NOT NULL,
    state VARCHAR NOT NULL CHECK (state IN ('open', 'sealed')),
    started_at TIMESTAMP NOT NULL,
    sealed_at TIMESTAMP
);
COMMENT ON TABLE run_datasets IS 'How far a run has come with a dataset; only sealed ones are selected from.';
COMMENT ON COLUMN run_datasets.run_id IS 'Run.';
COMMENT ON COLUMN run_datasets.dataset_id IS 'Dataset that is scored.';
COMMENT ON COLUMN run_datasets.state IS 'open until the last shard is in the store, then sealed.';
COMMENT ON COLUMN run_datasets.started_at IS 'When scoring (last) started (UTC).';
COMMENT ON COLUMN run_datasets.sealed_at IS 'When it was (last) sealed (UTC).';

CREATE TABLE run_validation_sets (
    run_id BIGINT NOT NULL,
    validation_set_id INTEGER NOT NULL
);
COMMENT ON TABLE run_validation_sets IS 'Validation sets that an influence run has dots for.';
COMMENT ON COLUMN run_validation_sets.run_id IS 'Run.';
COMMENT ON COLUMN run_validation_sets.validation_set_id IS 'Validation set.';

CREATE TABLE difficulty_scores (
    run_id BIGINT NOT NULL,
    sample_id UUID NOT NULL,
    knowledge DOUBLE,
    reasoning DOUBLE,
    overall DOUBLE,
    knowledge_level UTINYINT,
    reasoning_level UTINYINT,
    overall_level UTINYINT,
    reason VARCHAR
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

CREATE TABLE influence_scores (
    run_id BIGINT NOT NULL,
    sample_id UUID NOT NULL,
    validation_set_id INTEGER NOT NULL,
    dot DOUBLE,
    gradient_norm DOUBLE,
    loss DOUBLE,
    answer_tokens INTEGER,
    reason VARCHAR
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

CREATE TABLE text_scores (
    run_id BIGINT NOT NULL,
    sample_id UUID NOT NULL,
    validation_set_id INTEGER,
    perplexity DOUBLE,
    similarity DOUBLE,
    reason VARCHAR
);
COMMENT ON TABLE text_scores IS 'Scores of the baselines that need no gradient.';
COMMENT ON COLUMN text_scores.run_id IS 'Run.';
COMMENT ON COLUMN text_scores.sample_id IS 'Sample.';
COMMENT ON COLUMN text_scores.validation_set_id IS 'Validation set of a similarity; null for perplexity.';
COMMENT ON COLUMN text_scores.perplexity IS 'Perplexity of the full text.';
COMMENT ON COLUMN text_scores.similarity IS 'Cosine similarity with the validation set.';
COMMENT ON COLUMN text_scores.reason IS 'Why there is no score; null where there is one.';

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
    created_at TIMESTAMP NOT NULL
);
COMMENT ON TABLE rankings IS 'Configurations that fix a whole order of a dataset; every selection is a prefix of one.';
COMMENT ON COLUMN rankings.ranking_id IS 'Number of the ranking in this store.';
COMMENT ON COLUMN rankings.dataset_id IS 'Dataset.';
COMMENT ON COLUMN rankings.strategy IS 'diq, random, influence and so on.';
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

CREATE TABLE selections (
    selection_id BIGINT PRIMARY KEY,
    name VARCHAR NOT NULL,
    ranking_id BIGINT NOT NULL,
    ratio VARCHAR NOT NULL,
    n_target BIGINT NOT NULL,
    n BIGINT NOT NULL,
    output VARCHAR,
    created_at TIMESTAMP NOT NULL
);
COMMENT ON TABLE selections IS 'Every selection that was made.';
COMMENT ON COLUMN selections.selection_id IS 'Number of the selection in this store.';
COMMENT ON COLUMN selections.name IS 'Name for other commands; the latest selection of a name is meant.';
COMMENT ON COLUMN selections.ranking_id IS 'Ranking that it is a prefix of.';
COMMENT ON COLUMN selections.ratio IS 'Ratio as the decimal that was typed.';
COMMENT ON COLUMN selections.n_target IS 'floor(N * ratio).';
COMMENT ON COLUMN selections.n IS 'Samples selected; less than n_target only for the strategies q1 to q4.';
COMMENT ON COLUMN selections.output IS 'File that was written; null when none.';
COMMENT ON COLUMN selections.created_at IS 'When the selection was made (UTC).';

CREATE TABLE selection_samples (
    selection_id BIGINT NOT NULL,
    rank BIGINT NOT NULL,
    sample_id UUID NOT NULL,
    position BIGINT NOT NULL,
    quadrant VARCHAR,
    difficulty DOUBLE,
    dot DOUBLE
);
COMMENT ON TABLE selection_samples IS 'Samples of every selection, in rank order.';
COMMENT ON COLUMN selection_samples.selection_id IS 'Selection.';
COMMENT ON COLUMN selection_samples.rank IS '0-based place in the ranking.';
COMMENT ON COLUMN selection_samples.sample_id IS 'Sample.';
COMMENT ON COLUMN selection_samples.position IS 'Position in the dataset.';
COMMENT ON COLUMN selection_samples.quadrant IS 'Q1 to Q4; null where the strategy uses no quadrants.';
COMMENT ON COLUMN selection_samples.difficulty IS 'Difficulty at the time of selection.';
COMMENT ON COLUMN selection_samples.dot IS 'Dot at the time of selection.';

CREATE TABLE evaluations (
    evaluation_id BIGINT PRIMARY KEY,
    run_id BIGINT NOT NULL,
    model_id VARCHAR NOT NULL,
    adapter VARCHAR,
    benchmark VARCHAR NOT NULL,
    n BIGINT NOT NULL,
    accuracy DOUBLE NOT NULL,
    standard_error DOUBLE,
    protocol JSON NOT NULL,
    created_at TIMESTAMP NOT NULL
);
COMMENT ON TABLE evaluations IS 'Benchmark numbers.';
COMMENT ON COLUMN evaluations.evaluation_id IS 'Number of the evaluation in this store.';
COMMENT ON COLUMN evaluations.run_id IS 'Run that produced the model or the number.';
COMMENT ON COLUMN evaluations.model_id IS 'Base model.';
COMMENT ON COLUMN evaluations.adapter IS 'Adapter folder or hub id; null for the base model.';
COMMENT ON COLUMN evaluations.benchmark IS 'Benchmark.';
COMMENT ON COLUMN evaluations.n IS 'Questions.';
COMMENT ON COLUMN evaluations.accuracy IS 'Share answered right, 0 to 1.';
COMMENT ON COLUMN evaluations.standard_error IS 'Standard error of the accuracy.';
COMMENT ON COLUMN evaluations.protocol IS 'Template, few-shot, maximum tokens, temperature: everything that moves the number.';
COMMENT ON COLUMN evaluations.created_at IS 'When it was measured (UTC).';

CREATE TABLE judgments (
    judgment_id BIGINT PRIMARY KEY,
    run_id BIGINT NOT NULL,
    sample_id UUID,
    rubric VARCHAR NOT NULL,
    dimension VARCHAR NOT NULL,
    score DOUBLE,
    rationale VARCHAR,
    created_at TIMESTAMP NOT NULL
);
COMMENT ON TABLE judgments IS 'Scores that an LLM judge gave.';
COMMENT ON COLUMN judgments.judgment_id IS 'Number of the judgment in this store.';
COMMENT ON COLUMN judgments.run_id IS 'Run.';
COMMENT ON COLUMN judgments.sample_id IS 'Sample that was judged; null for a model output.';
COMMENT ON COLUMN judgments.rubric IS 'reasoning or clinical.';
COMMENT ON COLUMN judgments.dimension IS 'Dimension of the rubric.';
COMMENT ON COLUMN judgments.score IS '1 to 5; null where the reply could not be read.';
COMMENT ON COLUMN judgments.rationale IS 'The judge''s words.';
COMMENT ON COLUMN judgments.created_at IS 'When it was given (UTC).';

-- text of each sample as columns, for people; messages stay the source of truth
CREATE VIEW sample_texts AS
SELECT
    sample_id,
    messages ->> '$[#-2].content' AS prompt,
    messages ->> '$[#-1].reasoning_content' AS reasoning,
    messages ->> '$[#-1].content' AS answer,
    CAST(json_array_length(messages) AS INTEGER) AS n_messages
FROM samples;
COMMENT ON VIEW sample_texts IS 'Last prompt, reasoning and answer of each sample as plain columns.';
COMMENT ON COLUMN sample_texts.sample_id IS 'Sample.';
COMMENT ON COLUMN sample_texts.prompt IS 'Last message before the answer.';
COMMENT ON COLUMN sample_texts.reasoning IS 'Reasoning part of the answer; null when there is none.';
COMMENT ON COLUMN sample_texts.answer IS 'Last assistant message.';
COMMENT ON COLUMN sample_texts.n_messages IS 'Number of messages.';
