-- A change here is also the next migration (01_store.sql).
-- Which training a model came from.

CREATE TABLE trained_models (
    model_id VARCHAR NOT NULL,
    run_id BIGINT NOT NULL,
    base_model_id VARCHAR NOT NULL,
    start_model_id VARCHAR,
    folder VARCHAR NOT NULL,
    dataset_id INTEGER,
    selection_id BIGINT,
    created_at TIMESTAMP NOT NULL
);
COMMENT ON TABLE trained_models IS 'Models that `diq train` made, known by their content: a moved folder is still found.';
COMMENT ON COLUMN trained_models.model_id IS 'Fingerprint of the trained weights, which for an adapter covers its base model.';
COMMENT ON COLUMN trained_models.run_id IS 'Run that trained it.';
COMMENT ON COLUMN trained_models.base_model_id IS 'Model that was fine-tuned.';
COMMENT ON COLUMN trained_models.start_model_id IS 'Adapter that training started from, such as the SFT adapter of a DPO run; null without one.';
COMMENT ON COLUMN trained_models.folder IS 'Where it was written.';
COMMENT ON COLUMN trained_models.dataset_id IS 'Dataset that was trained on, wholly or by a selection; null for a file that no selection wrote.';
COMMENT ON COLUMN trained_models.selection_id IS 'Selection that was trained on; null for a whole dataset or a file.';
COMMENT ON COLUMN trained_models.created_at IS 'When the training was finished (UTC).';
