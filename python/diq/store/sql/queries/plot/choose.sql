-- The positions of a selection, for this connection alone.
-- Params: $selection_id BIGINT (null: none)
CREATE OR REPLACE TEMP TABLE chosen AS
SELECT r.position
FROM selections AS s
JOIN ranking_samples AS r ON r.ranking_id = s.ranking_id AND r.rank >= s."first" AND r.rank < s."first" + s.n
WHERE s.selection_id = $selection_id
