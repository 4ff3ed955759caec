-- Keep the rows of a score file that cannot be used.
-- Params: $dataset_id, $source_id INTEGER, $source VARCHAR
INSERT INTO rejects (dataset_id, source_id, source, line, position, reason, content)
SELECT $dataset_id, $source_id, $source, line, NULL, reason, content
FROM resolved_scores
WHERE outcome = 'reject'
ORDER BY line
