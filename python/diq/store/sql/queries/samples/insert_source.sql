-- Record a source with its counts.
-- Params: $source_id, $dataset_id INTEGER, $path, $kind, $layout, $content_hash, $options VARCHAR,
--         $first_position, $n_rows, $n_samples, $n_duplicates, $n_rejects BIGINT, $ingested_at TIMESTAMPTZ
INSERT INTO sources (
    source_id, dataset_id, path, kind, layout, content_hash, options,
    first_position, n_rows, n_samples, n_duplicates, n_rejects, ingested_at
)
VALUES (
    $source_id, $dataset_id, $path, $kind, $layout, $content_hash, $options,
    $first_position, $n_rows, $n_samples, $n_duplicates, $n_rejects, $ingested_at
)
