-- The newest reply to each of some items; items without a reply have no row.
-- Params:  $run_id BIGINT, $item_ids VARCHAR[]
-- Returns: item_id VARCHAR, attempt, was_read, content (null where it was read)
SELECT
    CAST(r.item_id AS VARCHAR) AS item_id,
    r.attempt,
    r.parsing IS NOT NULL AS was_read,
    CASE WHEN r.parsing IS NULL THEN r.content END AS content
FROM replies AS r
JOIN (SELECT CAST(unnest($item_ids) AS UUID) AS item_id) AS wanted USING (item_id)
WHERE r.run_id = $run_id AND r.content IS NOT NULL
QUALIFY r.attempt = max(r.attempt) OVER (PARTITION BY r.item_id)
