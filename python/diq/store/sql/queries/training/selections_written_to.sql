-- Selections that were written to a file, the latest first.
-- Returns: selection_id BIGINT, output VARCHAR, n BIGINT
SELECT selection_id, output, n
FROM selections
WHERE output IS NOT NULL
ORDER BY created_at DESC, selection_id DESC
