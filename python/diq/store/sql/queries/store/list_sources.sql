-- What was ingested into a dataset, oldest first.
-- Params: $dataset_id INTEGER
SELECT
    source_id, path, kind, layout, content_hash, CAST(options AS VARCHAR) AS options,
    n_rows, n_samples, n_duplicates, n_rejects
FROM sources
WHERE dataset_id = $dataset_id
ORDER BY source_id
