-- Forget that no reply came to some items, now that they were asked about again.
-- Reads: incoming (run_id, item_id VARCHAR, attempt)
DELETE FROM replies AS r
USING incoming AS i
WHERE
    r.content IS NULL
    AND r.run_id = i.run_id
    AND r.item_id = CAST(i.item_id AS UUID)
    AND r.attempt = i.attempt
