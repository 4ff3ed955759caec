-- The selection of a name and ratio from a ranking.
-- Params: $ranking_id BIGINT, $name, $ratio VARCHAR
SELECT selection_id FROM selections WHERE ranking_id = $ranking_id AND name = $name AND ratio = $ratio
