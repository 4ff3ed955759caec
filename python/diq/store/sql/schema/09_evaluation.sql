-- A change here is also the next migration (01_store.sql).
-- What models answered to the questions of benchmarks.

CREATE TABLE evaluations (
    run_id BIGINT NOT NULL,
    benchmark VARCHAR NOT NULL,
    questions VARCHAR NOT NULL,
    repeat INTEGER NOT NULL,
    scoring VARCHAR NOT NULL,
    n BIGINT NOT NULL,
    n_right BIGINT NOT NULL,
    n_by_option BIGINT NOT NULL,
    n_by_text BIGINT NOT NULL,
    n_unanswered BIGINT NOT NULL,
    n_cut BIGINT NOT NULL,
    n_right_strict BIGINT NOT NULL,
    accuracy DOUBLE NOT NULL,
    standard_error DOUBLE NOT NULL,
    created_at TIMESTAMP NOT NULL
);
COMMENT ON TABLE evaluations IS 'Accuracy of a model on a benchmark, one row a repeat; the run holds model, backend and protocol.';
COMMENT ON COLUMN evaluations.run_id IS 'Run (kind evaluate): its model_id is what answered, its config the protocol: template, few-shot, tokens, temperature.';
COMMENT ON COLUMN evaluations.benchmark IS 'medqa, medmcqa, mmlu_pro, hle, medbullets4, medbullets5, medxpertqa, medguide or metamedqa.';
COMMENT ON COLUMN evaluations.questions IS 'Fingerprint of the questions, their options and right answers, in order, and of the examples of few-shot.';
COMMENT ON COLUMN evaluations.repeat IS '0-based number of the repeat.';
COMMENT ON COLUMN evaluations.scoring IS 'Version of the rules that read answers; scoring again with other rules adds rows.';
COMMENT ON COLUMN evaluations.n IS 'Questions.';
COMMENT ON COLUMN evaluations.n_right IS 'Questions answered right: n_by_option + n_by_text.';
COMMENT ON COLUMN evaluations.n_by_option IS 'Right since the option that was read is the right one (first step).';
COMMENT ON COLUMN evaluations.n_by_text IS 'Right since the text of the right option is in the output (second step).';
COMMENT ON COLUMN evaluations.n_unanswered IS 'Outputs in which no option was found, whether or not the second step took them.';
COMMENT ON COLUMN evaluations.n_cut IS 'Outputs that ended at the maximum number of tokens.';
COMMENT ON COLUMN evaluations.n_right_strict IS 'Right by the strict rule: the second step counts only where no option was read.';
COMMENT ON COLUMN evaluations.accuracy IS 'n_right / n.';
COMMENT ON COLUMN evaluations.standard_error IS 'sqrt(accuracy * (1 - accuracy) / (n - 1)): of the questions, not of the repeats; 0 for one question.';
COMMENT ON COLUMN evaluations.created_at IS 'When it was scored (UTC).';

CREATE TABLE generation_files (
    run_id BIGINT NOT NULL,
    benchmark VARCHAR NOT NULL,
    questions VARCHAR NOT NULL,
    repeat INTEGER NOT NULL,
    part INTEGER NOT NULL,
    path VARCHAR NOT NULL,
    n_rows BIGINT NOT NULL,
    n_questions BIGINT NOT NULL,
    checksum VARCHAR NOT NULL,
    created_at TIMESTAMP NOT NULL
);
COMMENT ON TABLE generation_files IS 'Parquet files beside the store with everything that models answered to benchmarks.';
COMMENT ON COLUMN generation_files.run_id IS 'Run (kind evaluate).';
COMMENT ON COLUMN generation_files.benchmark IS 'Benchmark.';
COMMENT ON COLUMN generation_files.questions IS 'Fingerprint of the questions, as in evaluations.';
COMMENT ON COLUMN generation_files.repeat IS '0-based number of the repeat.';
COMMENT ON COLUMN generation_files.part IS '0-based number of the part; parts appear as they are finished, so a killed evaluation goes on.';
COMMENT ON COLUMN generation_files.path IS 'Path of the file; relative ones are beside the store.';
COMMENT ON COLUMN generation_files.n_rows IS 'Outputs in it.';
COMMENT ON COLUMN generation_files.n_questions IS 'Questions of the benchmark, all parts of a repeat together.';
COMMENT ON COLUMN generation_files.checksum IS 'BLAKE3 of the file.';
COMMENT ON COLUMN generation_files.created_at IS 'When it was written (UTC).';
