-- A change here is also the next migration (01_store.sql).
-- The gradient index of a projected run: which shard and row holds the projected gradient of a sample.

CREATE TABLE gradient_indexes (
    run_id BIGINT PRIMARY KEY,
    folder VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,
    dim INTEGER NOT NULL,
    element VARCHAR NOT NULL,
    created_at TIMESTAMP NOT NULL
);
COMMENT ON TABLE gradient_indexes IS 'Gradient indexes: projected gradients of samples, kept in safetensors shards.';
COMMENT ON COLUMN gradient_indexes.run_id IS 'The projected run that the index belongs to.';
COMMENT ON COLUMN gradient_indexes.folder IS 'Folder of the shards.';
COMMENT ON COLUMN gradient_indexes.kind IS 'rademacher, sparse or subspace; rds: embeddings in place of gradients.';
COMMENT ON COLUMN gradient_indexes.dim IS 'Numbers that are kept of a gradient.';
COMMENT ON COLUMN gradient_indexes.element IS 'How they are stored: float32, float16, bfloat16 or int8.';
COMMENT ON COLUMN gradient_indexes.created_at IS 'When the index was begun (UTC).';

CREATE TABLE gradient_shards (
    run_id BIGINT NOT NULL,
    shard INTEGER NOT NULL,
    file VARCHAR NOT NULL,
    n_rows INTEGER NOT NULL,
    n_bytes BIGINT NOT NULL,
    content_hash VARCHAR NOT NULL,
    written_at TIMESTAMP NOT NULL
);
COMMENT ON TABLE gradient_shards IS 'Files of each gradient index; a file without a row here is not part of it.';
COMMENT ON COLUMN gradient_shards.run_id IS 'Run of the index.';
COMMENT ON COLUMN gradient_shards.shard IS 'Number of the shard within the index.';
COMMENT ON COLUMN gradient_shards.file IS 'Name of the file within the folder of the index.';
COMMENT ON COLUMN gradient_shards.n_rows IS 'Gradients in it.';
COMMENT ON COLUMN gradient_shards.n_bytes IS 'Size of the file.';
COMMENT ON COLUMN gradient_shards.content_hash IS 'BLAKE3 of the file, hexadecimal; a shard that differs is scored again.';
COMMENT ON COLUMN gradient_shards.written_at IS 'When it was written (UTC).';

CREATE TABLE gradient_rows (
    run_id BIGINT NOT NULL,
    sample_id UUID NOT NULL,
    shard INTEGER,
    "row" INTEGER,
    loss DOUBLE,
    answer_tokens INTEGER,
    reason VARCHAR
);
COMMENT ON TABLE gradient_rows IS 'Where the projected gradient of each sample is.';
COMMENT ON COLUMN gradient_rows.run_id IS 'Run of the index.';
COMMENT ON COLUMN gradient_rows.sample_id IS 'Sample.';
COMMENT ON COLUMN gradient_rows.shard IS 'Shard; null for a sample without a gradient.';
COMMENT ON COLUMN gradient_rows."row" IS '0-based row within the shard; null for a sample without a gradient.';
COMMENT ON COLUMN gradient_rows.loss IS 'Loss of the sample, nats.';
COMMENT ON COLUMN gradient_rows.answer_tokens IS 'Number of answer tokens that the loss covers.';
COMMENT ON COLUMN gradient_rows.reason IS 'Why there is no gradient; null where there is one.';
