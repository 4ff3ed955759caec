-- Scores that a run gave to some items, in no particular order.
-- Params: $run_id BIGINT, $item_ids VARCHAR[]
-- Returns: item_id VARCHAR, dimension VARCHAR, score UTINYINT
SELECT CAST(j.item_id AS VARCHAR) AS item_id, j.dimension, j.score
FROM judgments AS j
JOIN (SELECT CAST(unnest($item_ids) AS UUID) AS item_id) AS wanted USING (item_id)
WHERE j.run_id = $run_id AND j.score IS NOT NULL
