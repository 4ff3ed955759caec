-- The commonest reasons why rows of a source cannot be used.
-- Params: $source_id INTEGER
-- Returns: reason VARCHAR, n BIGINT
SELECT reason, count(*)::BIGINT AS n
FROM rejects
WHERE source_id = $source_id
GROUP BY reason
ORDER BY n DESC, min(line)
LIMIT 5
