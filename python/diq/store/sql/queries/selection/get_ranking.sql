-- A ranking by its number.
-- Params: $ranking_id BIGINT
SELECT * FROM rankings WHERE ranking_id = $ranking_id
