-- The selection of a name, strategy, ratio and shape of its file from a ranking.
-- Params: $ranking_id BIGINT, $name, $strategy, $ratio, $file_order VARCHAR (null: as ranked), $weighted BOOLEAN
SELECT selection_id
FROM selections
WHERE
    ranking_id = $ranking_id AND name = $name AND strategy = $strategy AND ratio = $ratio
    AND file_order IS NOT DISTINCT FROM $file_order AND coalesce(weighted, false) = $weighted
