-- Rows that are stored of a ranking.
-- Params: $ranking_id BIGINT
SELECT count(*) AS n FROM ranking_samples WHERE ranking_id = $ranking_id
