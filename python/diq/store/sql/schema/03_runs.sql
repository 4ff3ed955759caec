-- A change here is also the next migration (01_store.sql).
-- Models, and the runs that score or train with them.

CREATE SEQUENCE run_ids;

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
    sealed_at TIMESTAMP,
    certificate JSON
);
COMMENT ON TABLE run_datasets IS 'How far a run has come with a dataset; only sealed ones are selected from.';
COMMENT ON COLUMN run_datasets.run_id IS 'Run.';
COMMENT ON COLUMN run_datasets.dataset_id IS 'Dataset that is scored.';
COMMENT ON COLUMN run_datasets.state IS 'open until the last shard is in the store, then sealed.';
COMMENT ON COLUMN run_datasets.started_at IS 'When scoring (last) started (UTC).';
COMMENT ON COLUMN run_datasets.sealed_at IS 'When it was (last) sealed (UTC).';
COMMENT ON COLUMN run_datasets.certificate IS 'Of an open run that was scored in part (--for-ratio): which samples have scores, and how large a selection they decide. Null for others.';

CREATE TABLE run_validation_sets (
    run_id BIGINT NOT NULL,
    validation_set_id INTEGER NOT NULL,
    fold_sizes INTEGER[],
    gradient_norm DOUBLE,
    kept_share DOUBLE
);
COMMENT ON TABLE run_validation_sets IS 'Validation sets that an influence run has dots for.';
COMMENT ON COLUMN run_validation_sets.run_id IS 'Run.';
COMMENT ON COLUMN run_validation_sets.validation_set_id IS 'Validation set.';
COMMENT ON COLUMN run_validation_sets.fold_sizes IS 'Validation samples with an answer token in each fold.';
COMMENT ON COLUMN run_validation_sets.gradient_norm IS 'Euclidean norm of the mean validation gradient.';
COMMENT ON COLUMN run_validation_sets.kept_share IS
    'Share of the squared norm of the mean validation gradient that --rank or a subspace basis holds; null when all of it.';

CREATE TABLE run_parts (
    run_id BIGINT NOT NULL,
    part_run_id BIGINT NOT NULL,
    weight DOUBLE NOT NULL
);
COMMENT ON TABLE run_parts IS 'Runs whose dots add up to the dots of a combined run: one a checkpoint (TracIn).';
COMMENT ON COLUMN run_parts.run_id IS 'The combined run.';
COMMENT ON COLUMN run_parts.part_run_id IS 'Run of one checkpoint.';
COMMENT ON COLUMN run_parts.weight IS 'What its dots are multiplied by: the learning rate at the checkpoint.';
