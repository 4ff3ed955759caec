-- Note where the gradient index of a run lies, or that it lies elsewhere now.
-- Params: $run_id BIGINT, $folder, $kind VARCHAR, $dim INTEGER, $element VARCHAR, $created_at TIMESTAMP
INSERT INTO gradient_indexes (run_id, folder, kind, dim, element, created_at)
VALUES ($run_id, $folder, $kind, $dim, $element, $created_at)
ON CONFLICT (run_id) DO UPDATE SET folder = excluded.folder
