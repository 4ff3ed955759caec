-- Keep the rows of a batch that cannot be used.
-- Params: $dataset_id, $source_id INTEGER, $source VARCHAR
-- Reads:  incoming (line BIGINT, position BIGINT, reason VARCHAR, content VARCHAR)
INSERT INTO rejects (dataset_id, source_id, source, line, position, reason, content)
SELECT $dataset_id, $source_id, $source, i.line, i.position, i.reason, i.content
FROM incoming AS i
ORDER BY i.position
