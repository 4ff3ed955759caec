-- The selection of a name, strategy and ratio from a ranking.
-- Params: $ranking_id BIGINT, $name, $strategy, $ratio VARCHAR
SELECT selection_id
FROM selections
WHERE ranking_id = $ranking_id AND name = $name AND strategy = $strategy AND ratio = $ratio
