-- A ranking is out of date: another took its place.
-- Params: $ranking_id, $replaced_by BIGINT
UPDATE rankings SET replaced_by = $replaced_by WHERE ranking_id = $ranking_id
