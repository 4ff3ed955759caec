-- Forget the rows of a replaced ranking that no selection took.
-- Params: $ranking_id BIGINT
DELETE FROM ranking_samples
WHERE
    ranking_id = $ranking_id
    AND rank >= (SELECT coalesce(max(s."first" + s.n), 0) FROM selections AS s WHERE s.ranking_id = $ranking_id)
