-- All datasets with their counts, in the order of ingest.
-- Returns: dataset_id, name, kind, n_rows, n_samples, n_duplicates, n_rejects, created_at
SELECT
    d.dataset_id,
    d.name,
    d.kind,
    coalesce(sum(s.n_rows), 0)::BIGINT AS n_rows,
    coalesce(sum(s.n_samples), 0)::BIGINT AS n_samples,
    coalesce(sum(s.n_duplicates), 0)::BIGINT AS n_duplicates,
    coalesce(sum(s.n_rejects), 0)::BIGINT AS n_rejects,
    d.created_at
FROM datasets AS d
LEFT JOIN sources AS s ON s.dataset_id = d.dataset_id AND s.kind = 'samples'
GROUP BY d.dataset_id, d.name, d.kind, d.created_at
ORDER BY d.dataset_id
