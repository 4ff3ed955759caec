-- A walk has gone on; returns nothing where another process went on meanwhile.
-- Params: $ranking_id, $before, $depth BIGINT
UPDATE rankings SET depth = $depth WHERE ranking_id = $ranking_id AND depth = $before RETURNING ranking_id
